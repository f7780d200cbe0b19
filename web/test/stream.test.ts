import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { watch } from '../src/api/stream'
import type { Message } from '../src/model/state'
import { cluster, event } from './documents'

/** An EventSource that says what the test has it say. */
class Source {
  static all: Source[] = []
  closed = false
  onerror: (() => void) | null = null
  private readonly hears = new Map<string, (event: { data: string }) => void>()

  constructor(readonly url: string) {
    Source.all.push(this)
  }
  addEventListener(kind: string, hear: (event: { data: string }) => void) {
    this.hears.set(kind, hear)
  }
  close() {
    this.closed = true
  }
  say(kind: string, document: object) {
    this.hears.get(kind)!({ data: JSON.stringify(document) })
  }
}

const page = { visibilityState: 'visible', seen: () => undefined as void, addEventListener: (_: string, seen: () => void) => (page.seen = seen) }
const newest = () => Source.all[Source.all.length - 1]!
let told: Message[]

beforeEach(() => {
  vi.useFakeTimers()
  Source.all = []
  page.visibilityState = 'visible'
  vi.stubGlobal('EventSource', Source)
  vi.stubGlobal('window', globalThis)
  vi.stubGlobal('document', page)
  vi.stubGlobal('fetch', () => Promise.reject(new TypeError('refused')))
  told = []
  watch((message) => told.push(message))
})

afterEach(() => {
  vi.unstubAllGlobals()
  vi.useRealTimers()
})

describe('the stream of events', () => {
  it('tells what the node says', () => {
    newest().say('cluster', cluster())
    newest().say('log', event(1, 'node', 'n2 does not answer'))
    expect(told).toEqual([
      { kind: 'cluster', document: cluster() },
      { kind: 'event', document: event(1, 'node', 'n2 does not answer') },
    ])
  })

  it('says that it is lost, and is opened again until it answers', async () => {
    newest().onerror!()
    await vi.advanceTimersByTimeAsync(0)
    expect(told).toMatchObject([{ kind: 'lost', why: 'Nothing answers at its address.' }])
    for (let tries = 2; tries < 6; tries++) {
      await vi.advanceTimersByTimeAsync(2000)
      expect(Source.all).toHaveLength(tries)
      newest().onerror!()
    }
    await vi.advanceTimersByTimeAsync(2000)
    newest().say('cluster', cluster())
    expect(told.at(-1)).toMatchObject({ kind: 'cluster' })
    expect(Source.all.filter((source) => !source.closed)).toEqual([newest()])
  })

  it('tells why the node refuses', async () => {
    const problem = { type: '/problems/overloaded', title: 'Too Many Requests', status: 429, detail: '64 watch already' }
    vi.stubGlobal('fetch', () => Promise.resolve(new Response(JSON.stringify(problem), { status: 429 })))
    newest().onerror!()
    await vi.advanceTimersByTimeAsync(0)
    expect(told).toMatchObject([{ kind: 'lost', why: 'It answers: 64 watch already.' }])
  })

  it('is lost, too, when a node keeps its connection and says nothing', async () => {
    newest().say('cluster', cluster())
    await vi.advanceTimersByTimeAsync(4900)
    newest().say('cluster', cluster())
    await vi.advanceTimersByTimeAsync(4900)
    expect(told).toHaveLength(2)
    await vi.advanceTimersByTimeAsync(200)
    expect(told.at(-1)).toMatchObject({ kind: 'lost', why: 'It says nothing any more.' })
    expect(Source.all[0]!.closed).toBe(true)
  })

  it('is let go of while nobody looks at the page, and opened when somebody does', async () => {
    newest().say('cluster', cluster())
    page.visibilityState = 'hidden'
    page.seen()
    const said = setInterval(() => newest().closed || newest().say('cluster', cluster()), 1000)
    await vi.advanceTimersByTimeAsync(29_000)
    expect(newest().closed).toBe(false)
    await vi.advanceTimersByTimeAsync(2000)
    expect(newest().closed).toBe(true)
    expect(told.at(-1)).toEqual({ kind: 'resting' })
    await vi.advanceTimersByTimeAsync(60_000)
    expect(Source.all).toHaveLength(1)
    clearInterval(said)
    page.visibilityState = 'visible'
    page.seen()
    expect(Source.all).toHaveLength(2)
  })

  it('is not lost once more by an answer that comes late', async () => {
    let answer: (reason: Error) => void = () => undefined
    vi.stubGlobal('fetch', () => new Promise((_, failed) => (answer = failed)))
    newest().onerror!()
    page.seen() // somebody looks, and it is opened at once
    newest().say('cluster', cluster())
    answer(new TypeError('refused'))
    await vi.advanceTimersByTimeAsync(0)
    expect(told.map((message) => message.kind)).toEqual(['cluster'])
    expect(newest().closed).toBe(false)
  })

  it('stays open when somebody looks again soon', async () => {
    newest().say('cluster', cluster())
    page.visibilityState = 'hidden'
    page.seen()
    await vi.advanceTimersByTimeAsync(3000)
    page.visibilityState = 'visible'
    page.seen()
    newest().say('cluster', cluster())
    await vi.advanceTimersByTimeAsync(4000)
    expect(Source.all).toHaveLength(1)
    expect(newest().closed).toBe(false)
  })
})
