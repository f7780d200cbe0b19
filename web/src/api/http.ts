// Requests to the node that the page came from, and what a refusal means.

import type { ProblemDocument } from '../model/documents'

export type Sure = 'not-done' | 'unknown'

/** A request that was refused or failed. `sure`: whether it is certain that nothing was done. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    override readonly name: string,
    detail: string,
    readonly sure: Sure,
  ) {
    super(detail)
  }
}

const TIMEOUT_MS = 70_000

export async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  let answer: Response
  const writes = init.method !== undefined && init.method !== 'GET'
  try {
    answer = await fetch(path, { ...init, signal: AbortSignal.timeout(TIMEOUT_MS) })
  } catch {
    throw new Refused(
      0,
      'unreachable',
      writes
        ? 'The node did not answer. Whether it was done is unknown: look before you repeat it.'
        : 'The node did not answer.',
      writes ? 'unknown' : 'not-done',
    )
  }
  if (answer.ok) return answer
  throw await refusal(answer)
}

async function refusal(answer: Response): Promise<Refused> {
  // 504: it may have been done (docs/http.md); 500: a mistake of the node's.
  const sure = answer.status === 504 || answer.status === 500 ? 'unknown' : 'not-done'
  try {
    const problem = (await answer.json()) as ProblemDocument
    return new Refused(answer.status, problem.type.replace('/problems/', ''), problem.detail, sure)
  } catch {
    return new Refused(answer.status, 'refused', `The node answered with ${answer.status}.`, sure)
  }
}

/** A name for one request: sent again with it, it is not done again. */
export function requestName(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('')
}
