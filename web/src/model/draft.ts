// A value as it is edited: as text, or as base64 where it is no text. Pure.

import { fromBase64, sameBytes, textOf, toBase64, bytesOf } from './bytes'

export type Form = 'text' | 'base64'
export type Draft = { form: Form; content: string }

export const VALUE_BYTES_MAX = 1024 * 1024
export const KEY_BYTES_MAX = 4096

/** As text where it can be: a browser's field keeps no \r, so what has one is not text here. */
export function draftOf(value: Uint8Array): Draft {
  const text = textOf(value)
  return text === null || /\r|\0/.test(text) ? { form: 'base64', content: toBase64(value) } : { form: 'text', content: text }
}

/** The bytes that it stands for; a string says what is wrong. */
export function bytesOfDraft(draft: Draft): Uint8Array | string {
  if (draft.form === 'text') return bytesOf(draft.content)
  const packed = draft.content.replace(/\s/g, '')
  try {
    return fromBase64(packed)
  } catch {
    return 'This is no base64: letters, digits, + and /, padded with = to a multiple of four.'
  }
}

/** In the other form; the same draft if it cannot be shown so. */
export function inForm(draft: Draft, form: Form): Draft {
  const value = bytesOfDraft(draft)
  if (typeof value === 'string' || form === draft.form) return draft
  if (form === 'base64') return { form, content: toBase64(value) }
  const text = draftOf(value)
  return text.form === 'text' ? text : draft
}

export function changed(draft: Draft, value: Uint8Array): boolean {
  const now = bytesOfDraft(draft)
  return typeof now === 'string' || !sameBytes(now, value)
}

/** What is wrong with a value's length, or a key's; null: nothing. */
export function tooLong(what: 'key' | 'value', bytes: Uint8Array): string | null {
  const most = what === 'key' ? KEY_BYTES_MAX : VALUE_BYTES_MAX
  return bytes.length > most ? `A ${what} has at most ${most} bytes; this has ${bytes.length}.` : null
}
