// The node's stream of events, for as long as the page is looked at: it comes back by itself.

import type { ClusterDocument, EventDocument, ProblemDocument } from '../model/documents'
import type { Message } from '../model/state'

const RETRY_MS = [500, 1000, 1000, 2000]
const SILENT_MS = 5000 // a node that stands still keeps its connections open, and says nothing
const REASON_MS = 2000
const REST_MS = 30_000 // browsers allow a host few connections: a page in the background gives its own back

export function watch(tell: (message: Message) => void): void {
  let source: EventSource | null = null
  let silence: number | undefined
  let retry: number | undefined
  let rest: number | undefined
  let tries = 0
  let resting = false

  const stop = () => {
    source?.close()
    source = null
    clearTimeout(silence)
    clearTimeout(retry)
  }

  const lost = (why: string) => {
    stop()
    tell({ kind: 'lost', at: Date.now(), why })
    retry = window.setTimeout(open, RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)])
  }

  const heard = () => {
    clearTimeout(silence)
    silence = window.setTimeout(() => lost('It says nothing any more.'), SILENT_MS)
  }

  function open() {
    stop()
    resting = false
    const opened = new EventSource('/events')
    source = opened
    heard()
    opened.addEventListener('cluster', (event) => {
      tries = 0
      heard()
      tell({ kind: 'cluster', document: JSON.parse(event.data) as ClusterDocument })
    })
    opened.addEventListener('log', (event) => {
      heard()
      tell({ kind: 'event', document: JSON.parse(event.data) as EventDocument })
    })
    opened.onerror = () => {
      if (source !== opened) return
      stop()
      void reason().then((why) => {
        if (source === null && !resting) lost(why) // else it was opened again, or let go, meanwhile
      })
    }
  }

  document.addEventListener('visibilitychange', () => {
    clearTimeout(rest)
    if (document.visibilityState === 'hidden') {
      rest = window.setTimeout(() => {
        stop()
        resting = true
        tell({ kind: 'resting' })
      }, REST_MS)
    } else if (source === null) {
      open()
    }
  })
  open()
}

/** Why there is no stream: an EventSource does not tell, so it is asked for once more. */
async function reason(): Promise<string> {
  try {
    const answer = await fetch('/events', { signal: AbortSignal.timeout(REASON_MS) })
    if (answer.ok) {
      await answer.body?.cancel()
      return 'Its stream of events has ended.'
    }
    const problem = (await answer.json()) as ProblemDocument
    return `It answers: ${problem.detail}.`
  } catch {
    return 'Nothing answers at its address.'
  }
}
