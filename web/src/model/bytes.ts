// Keys and values are bytes. People see text where it is text, and \xNN where it is not; what they
// type is read by the same rule, so every key can be shown and typed.

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const encoder = new TextEncoder()

/** The bytes as text; null if they are not UTF-8. */
export function textOf(bytes: Uint8Array): string | null {
  try {
    return strict.decode(bytes)
  } catch {
    return null
  }
}

export function bytesOf(text: string): Uint8Array {
  return encoder.encode(text)
}

const hex = (byte: number) => byte.toString(16).padStart(2, '0')

/** Control characters, and those that change the direction of text: shown as what they are. */
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffe\uffff]/

/** How bytes are written on the page: text, `\xNN` for a byte that is none, `\\` for a backslash. */
export function escaped(bytes: Uint8Array): string {
  let out = ''
  for (let at = 0; at < bytes.length; ) {
    const length = utf8Length(bytes, at)
    const piece = bytes.subarray(at, at + Math.max(1, length))
    const character = length > 0 ? textOf(piece) : null
    if (character === null || HIDDEN.test(character)) {
      out += Array.from(piece, (byte) => `\\x${hex(byte)}`).join('')
    } else {
      out += character === '\\' ? '\\\\' : character
    }
    at += piece.length
  }
  return out
}

/** The length of the UTF-8 character that begins here, by its first byte; 0 if none does. */
function utf8Length(bytes: Uint8Array, at: number): number {
  const first = bytes[at] ?? 0
  const length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0
  return length > 0 && textOf(bytes.subarray(at, at + length)) !== null ? length : 0
}

export class BadEscape extends Error {}

/** The reverse of `escaped`. Throws BadEscape. */
export function unescaped(text: string): Uint8Array {
  const pieces: number[] = []
  for (let at = 0; at < text.length; ) {
    const next = text.indexOf('\\', at)
    const plain = text.slice(at, next < 0 ? undefined : next)
    for (const byte of bytesOf(plain)) pieces.push(byte)
    if (next < 0) break
    const found = /^\\(?:x([0-9a-fA-F]{2})|\\)/.exec(text.slice(next, next + 4))
    if (found === null) throw new BadEscape('a backslash is written \\\\, and a byte \\xNN with two hexadecimal digits')
    pieces.push(found[1] === undefined ? 0x5c : parseInt(found[1], 16))
    at = next + found[0].length
  }
  return Uint8Array.from(pieces)
}

/** What is wrong with text that stands for bytes; null: nothing. */
export function complaint(text: string): string | null {
  try {
    unescaped(text)
    return null
  } catch (error) {
    if (!(error instanceof BadEscape)) throw error
    return error.message
  }
}

/** For a path or a query: everything but letters, digits and `-._~` as %NN. */
export function percentEncoded(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) =>
    /[A-Za-z0-9\-._~]/.test(String.fromCharCode(byte)) ? String.fromCharCode(byte) : `%${hex(byte).toUpperCase()}`,
  ).join('')
}

/**
 * A key below /kv/. Browsers take `.` and `..` out of paths, written as %2E too, so a part of the key
 * that is only dots cannot be asked for; null then.
 */
export function keyPath(key: Uint8Array): string | null {
  const path = percentEncoded(key)
  return path === '.' || path === '..' ? null : path
}

export function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0))
}

export function toBase64(bytes: Uint8Array): string {
  let binary = ''
  for (let at = 0; at < bytes.length; at += 0x8000) {
    binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000))
  }
  return btoa(binary)
}

export type HexLine = { offset: string; hex: string; text: string }

/** A hex dump, 16 bytes a line, of at most `most` bytes. */
export function hexLines(bytes: Uint8Array, most: number): HexLine[] {
  const lines: HexLine[] = []
  for (let at = 0; at < Math.min(bytes.length, most); at += 16) {
    const part = bytes.subarray(at, Math.min(at + 16, most))
    lines.push({
      offset: at.toString(16).padStart(8, '0'),
      hex: Array.from(part, hex).join(' '),
      text: Array.from(part, (byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : '·')).join(''),
    })
  }
  return lines
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, at) => byte === b[at])
}
