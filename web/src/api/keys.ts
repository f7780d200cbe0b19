// Keys, as bytes.

import { bytesOf, fromBase64, keyPath, percentEncoded } from '../model/bytes'
import { ask, Refused } from './http'

export const PAGE_KEYS = 50
const OCTETS = 'application/octet-stream'

export type Listed = { key: Uint8Array; version: number }
export type Page = { rows: Listed[]; token: string | null }
export type Value = { value: Uint8Array; version: number }

type Row = { key?: string; key_base64?: string; version: number }

export async function list(prefix: Uint8Array, token: string | null): Promise<Page> {
  const query = token === null ? '' : `&token=${percentEncoded(bytesOf(token))}`
  const answer = await ask(`/kv?prefix=${percentEncoded(prefix)}&limit=${PAGE_KEYS}${query}`)
  const page = (await answer.json()) as { keys: Row[]; token: string | null }
  return {
    rows: page.keys.map((row) => ({
      key: row.key_base64 === undefined ? bytesOf(row.key ?? '') : fromBase64(row.key_base64),
      version: row.version,
    })),
    token: page.token,
  }
}

/** Null: the key is absent. */
export async function get(key: Uint8Array): Promise<Value | null> {
  try {
    const answer = await ask(at('/kv/', key), { headers: { accept: OCTETS }, cache: 'no-store' })
    return { value: new Uint8Array(await answer.arrayBuffer()), version: versionOf(answer) }
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null
    throw error
  }
}

export type Condition = number | 'absent' | null // the version that it must have; null: any

/** Returns the new version. `name`: the same for a request that is sent again. */
export async function put(key: Uint8Array, value: Uint8Array, only: Condition, name: string): Promise<number> {
  const answer = await ask(at('/kv/', key), { method: 'PUT', headers: headers(only, name), body: bodyOf(value) })
  return versionOf(answer)
}

export async function append(key: Uint8Array, value: Uint8Array, name: string): Promise<number> {
  const answer = await ask(at('/append/', key), { method: 'POST', headers: headers(null, name), body: bodyOf(value) })
  return versionOf(answer)
}

export async function remove(key: Uint8Array, only: Condition, name: string): Promise<void> {
  await ask(at('/kv/', key), { method: 'DELETE', headers: headers(only, name) })
}

function headers(only: Condition, name: string): Record<string, string> {
  const condition = only === null ? {} : only === 'absent' ? { 'if-none-match': '*' } : { 'if-match': `"${only}"` }
  return { 'content-type': OCTETS, accept: OCTETS, 'idempotency-key': name, ...condition }
}

function bodyOf(value: Uint8Array): Blob {
  return new Blob([value as Uint8Array<ArrayBuffer>])
}

function at(route: string, key: Uint8Array): string {
  const path = keyPath(key)
  if (path === null) throw new Refused(0, 'unaskable', 'Browsers take "." and ".." out of addresses: use the command line for this key.', 'not-done')
  return route + path
}

function versionOf(answer: Response): number {
  return Number(/"(\d+)"/.exec(answer.headers.get('etag') ?? '')?.[1] ?? 0)
}
