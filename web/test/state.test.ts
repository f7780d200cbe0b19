import { describe, expect, it } from 'vitest'
import { columns, extent, type Sample, sampled, WINDOW_SECONDS } from '../src/model/history'
import { EVENTS_MAX, filtered, logged, weightOf } from '../src/model/log'
import { EMPTY, type Message, newVersion, reduced, type State } from '../src/model/state'
import type { EventDocument } from '../src/model/documents'
import { at, cluster, event, node, silent } from './documents'

const after = (...messages: Message[]): State => messages.reduce(reduced, EMPTY)
const seen = (more = {}): Message => ({ kind: 'cluster', document: cluster(more) })

describe('the connection', () => {
  it('is live with the first snapshot, and lost since the first failure', () => {
    expect(after().connection).toEqual({ state: 'connecting' })
    expect(after(seen()).connection).toEqual({ state: 'live' })
    const lost = after(seen(), { kind: 'lost', at: 5, why: 'a' }, { kind: 'lost', at: 9, why: 'b' })
    expect(lost.connection).toEqual({ state: 'lost', since: 5, why: 'b' })
    expect(lost.cluster).not.toBeNull()
    expect(reduced(lost, seen()).connection).toEqual({ state: 'live' })
  })

  it('keeps the addresses of nodes that say nothing any more', () => {
    const state = after(seen({ nodes: [node('n10'), node('n2')] }), seen({ nodes: [node('n10'), silent('n2')] }))
    expect([...state.addresses]).toEqual([['n2', 'n2:3'], ['n10', 'n10:3']])
  })

  it('knows when the node has come back with another version than the page is of', () => {
    const state = after(seen())
    expect(newVersion(state)).toBeNull()
    expect(newVersion(reduced(state, seen({ nodes: [node('n1', { version: '2' })] })))).toBe('2')
    expect(newVersion(reduced(state, seen({ nodes: [node('n1', { version: null })] })))).toBeNull()
  })

  it('does not forget whose the shards were when a node has just been started', () => {
    const state = after(seen(), seen({ shards: [], groups: [] }), seen())
    expect(state.moves).toMatchObject({ active: [], past: [] })
  })
})

describe('the log of events', () => {
  const leads = (number: number, term: number) => event(number, 'leader', `n1 leads group 1 in term ${term}`, { gid: 1, term })
  const log = (...events: EventDocument[]) => events.reduce<readonly EventDocument[]>(logged, [])

  it('has each once, through reconnections', () => {
    const told = [event(1, 'node', 'n2 does not answer'), leads(2, 4)]
    const known = log(...told)
    expect(logged(known, told[0]!)).toBe(known)
    expect(log(...told, ...told)).toEqual(told)
  })

  it('has each leader of a term once, though a node that comes back notices it again', () => {
    expect(log(leads(2, 4), leads(1, 4), leads(2, 5)).map((each) => each.term)).toEqual([4, 5])
  })

  it('is in the order of time, and bounded', () => {
    expect(log(event(5, 'node', 'b'), event(3, 'node', 'a')).map((each) => each.text)).toEqual(['a', 'b'])
    const many = Array.from({ length: EVENTS_MAX + 5 }, (_, n) => event(n, 'node', `${n}`))
    expect(log(...many)).toEqual(many.slice(5))
  })

  it('is filtered by kind and words, newest first', () => {
    const events = [leads(1, 4), event(2, 'shard', 'shard 3 is serving at group 1'), event(3, 'node', 'n2 was started again')]
    expect(filtered(events, new Set(), '').map((each) => each.number)).toEqual([3, 2, 1])
    expect(filtered(events, new Set(['Elections', 'Nodes']), '').map((each) => each.number)).toEqual([3, 1])
    expect(filtered(events, new Set(), 'Group 1').map((each) => each.number)).toEqual([2, 1])
  })

  it('weighs what happened', () => {
    const of = (is: string) => weightOf(event(1, 'node', '', { is }))
    expect([of('silent'), of('restarted'), of('back')]).toEqual(['bad', 'warn', 'good'])
    expect(weightOf(event(1, 'leaderless', ''))).toBe('bad')
    expect(weightOf(leads(1, 1))).toBe('plain')
  })

  it('does not change the state for what is known', () => {
    const message: Message = { kind: 'event', document: leads(1, 1) }
    const state = after(message)
    expect(reduced(state, message)).toBe(state)
  })
})

describe('what the charts draw', () => {
  const over = (...seconds: number[]) =>
    seconds.reduce<readonly Sample[]>((history, second) => sampled(history, cluster({ at: at(second) })), [])

  it('is a sample a second, however often is looked', () => {
    expect(over(0, 0.25, 0.5, 1, 1.25, 2)).toHaveLength(3)
  })

  it('is bounded, and has a hole where nothing was heard', () => {
    expect(over(...Array.from({ length: 400 }, (_, n) => n))).toHaveLength(WINDOW_SECONDS)
    expect(columns(over(0, 1, 20), ['reads'])[1]).toEqual([10, 10, null, 10])
  })

  it('is not drawn twice where a clock is behind', () => {
    expect(over(10, 11, 12, 11.5).map((sample) => sample.at - Date.parse(at(0)) / 1000)).toEqual([10, 11, 11.5])
  })

  it('is unknown while no node says its rates', () => {
    const now = cluster({ nodes: [node('n1', { reads_per_second: null })] })
    expect(sampled([], now)[0]).toMatchObject({ reads: null, writes: null })
  })

  it('is summed up in words', () => {
    expect(extent(over(0, 1), 'reads')).toEqual({ most: 10, last: 10 })
    expect(extent([], 'reads')).toEqual({ most: null, last: null })
  })
})
