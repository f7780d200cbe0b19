import { describe, expect, it } from 'vitest'
import { BadEscape, bytesOf, escaped, fromBase64, hexLines, keyPath, percentEncoded, sameBytes, textOf, toBase64, unescaped } from '../src/model/bytes'
import { bytesOfDraft, changed, draftOf, inForm, tooLong } from '../src/model/draft'
import { shardOf } from '../src/model/routing'

const bytes = (...values: number[]) => Uint8Array.from(values)

describe('bytes that people see and type', () => {
  it.each([
    ['plain text', bytesOf('user/1'), 'user/1'],
    ['text of other scripts', bytesOf('clé-鍵-🔑'), 'clé-鍵-🔑'],
    ['a backslash', bytesOf('a\\b'), 'a\\\\b'],
    ['a byte that is no text', bytes(0x61, 0xff, 0x62), 'a\\xffb'],
    ['a character that was cut off', bytes(0xe2, 0x82), '\\xe2\\x82'],
    ['an overlong form', bytes(0xc0, 0x80), '\\xc0\\x80'],
    ['a surrogate', bytes(0xed, 0xa0, 0x80), '\\xed\\xa0\\x80'],
    ['control characters', bytesOf('a\u0000\n\u007f'), 'a\\x00\\x0a\\x7f'],
    ['what turns the direction of text', bytesOf('\u202e'), '\\xe2\\x80\\xae'],
    ['a byte order mark', bytesOf('\ufeffa'), '\\xef\\xbb\\xbfa'],
    ['nothing', bytes(), ''],
  ])('%s is shown, and typed back', (_, raw, shown) => {
    expect(escaped(raw)).toBe(shown)
    expect(unescaped(shown)).toEqual(raw)
  })

  it('shows every byte so that it can be typed', () => {
    const all = Uint8Array.from({ length: 512 }, (_, n) => n % 256)
    expect(unescaped(escaped(all))).toEqual(all)
  })

  it.each(['\\', '\\x', '\\x4', '\\xgg', '\\n'])('refuses %j', (text) => {
    expect(() => unescaped(text)).toThrow(BadEscape)
  })

  it('encodes a key for a path, and refuses what browsers take away', () => {
    expect(percentEncoded(bytesOf('a b/ä%'))).toBe('a%20b%2F%C3%A4%25')
    expect(keyPath(bytesOf('./..'))).toBe('.%2F..')
    expect(keyPath(bytesOf('..'))).toBeNull()
    expect(new URL('/kv/' + keyPath(bytesOf('a/../b')), 'http://n').pathname).toBe('/kv/a%2F..%2Fb')
  })

  it('packs and unpacks base64, a megabyte too', () => {
    const big = Uint8Array.from({ length: 1 << 20 }, (_, n) => (n * 7) % 256)
    expect(sameBytes(fromBase64(toBase64(big)), big)).toBe(true)
  })

  it('dumps bytes, and not more than asked', () => {
    expect(hexLines(bytesOf('shardkv has bytes'), 99)).toEqual([
      { offset: '00000000', hex: '73 68 61 72 64 6b 76 20 68 61 73 20 62 79 74 65', text: 'shardkv has byte' },
      { offset: '00000010', hex: '73', text: 's' },
    ])
    expect(hexLines(new Uint8Array(5000), 32)).toHaveLength(2)
  })

  it('knows text', () => {
    expect(textOf(bytesOf('ä'))).toBe('ä')
    expect(textOf(bytes(0xff))).toBeNull()
  })
})

describe('a value that is edited', () => {
  it('is text where it can be, and base64 where a field would change it', () => {
    expect(draftOf(bytesOf('hello\nworld'))).toEqual({ form: 'text', content: 'hello\nworld' })
    expect(draftOf(bytes(0xff, 0x00))).toEqual({ form: 'base64', content: '/wA=' })
    expect(draftOf(bytesOf('a\r\nb')).form).toBe('base64')
  })

  it('changes its form and not its bytes', () => {
    const packed = inForm({ form: 'text', content: 'hello' }, 'base64')
    expect(packed).toEqual({ form: 'base64', content: 'aGVsbG8=' })
    expect(inForm(packed, 'text')).toEqual({ form: 'text', content: 'hello' })
    const binary = { form: 'base64', content: '/w==' } as const
    expect(inForm(binary, 'text')).toBe(binary)
  })

  it('says what is wrong', () => {
    expect(bytesOfDraft({ form: 'base64', content: 'a?' })).toMatch(/no base64/)
    expect(tooLong('key', new Uint8Array(4097))).toBe('A key has at most 4096 bytes; this has 4097.')
    expect(tooLong('value', new Uint8Array(1024 * 1024))).toBeNull()
  })

  it('is changed when its bytes are', () => {
    expect(changed({ form: 'base64', content: 'aGVs bG8=' }, bytesOf('hello'))).toBe(false)
    expect(changed({ form: 'text', content: 'hello!' }, bytesOf('hello'))).toBe(true)
  })
})

describe('the shard of a key', () => {
  // Of shardkv.routing.SlotRouting(64), by Python.
  it.each([
    ['greeting', 49],
    ['{t}/1', 62],
    ['{t}/other', 62],
    ['{}/1', 54],
    ['', 0],
  ])('%s', (key, shard) => {
    expect(shardOf(bytesOf(key), 64)).toBe(shard)
  })
})
