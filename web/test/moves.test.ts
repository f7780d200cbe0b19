import { describe, expect, it } from 'vitest'
import type { ShardDocument } from '../src/model/documents'
import { DONE, followed, type Moves, NO_MOVES, sentence, STEPS, stepOf } from '../src/model/moves'
import { at, cluster, held, serving } from './documents'

const MIB = 1024 * 1024

function moving(giving: string, progress: string, left = 0, perSecond = 0): ShardDocument {
  const holders = [
    held(1, giving, { other: 2 }),
    held(2, 'arriving', { other: 1, progress, bytes_left: left, bytes_per_second: perSecond }),
  ]
  return { shard: 0, owner: 2, phase: 'moving', holders }
}

function told(...shards: ShardDocument[]): Moves {
  return shards.reduce(
    (moves, shard, second) => followed(moves, cluster({ at: at(second), shards: [shard], config: { number: 3, shards: 1, groups: [1, 2] } })),
    NO_MOVES,
  )
}

describe('a move of a shard', () => {
  it('goes through its steps, each with its time', () => {
    const story = [serving(0, 1), moving('moving', 'waiting'), moving('moving', 'rows', MIB, MIB), moving('moving', 'changes'), moving('leaving', 'changes')]
    expect(story.slice(1).map(stepOf).map((step) => STEPS[step]?.name)).toEqual(['Assigned', 'Rows', 'Changes', 'Frozen'])

    const under = told(...story)
    expect(under.active).toMatchObject([{ shard: 0, from: 1, to: 2, step: 3, startedAt: at(1), endedAt: null }])
    expect(under.active[0]?.seenAt).toEqual([at(1), at(2), at(3), at(4), null, null])

    const cleared: ShardDocument = { ...serving(0, 2), holders: [held(2, 'serving')] }
    const served: ShardDocument = { ...cleared, phase: 'moving', holders: [held(1, 'leaving'), held(2, 'serving')] }
    const after = told(...story, served, cleared)
    expect(after.active).toEqual([])
    expect(after.past).toMatchObject([{ shard: 0, from: 1, to: 2, step: DONE, endedAt: at(6), share: 1 }])
  })

  it('is known although all of it happened between two looks', () => {
    const moves = told(serving(0, 1), serving(0, 2))
    expect(moves.past).toMatchObject([{ from: 1, to: 2, startedAt: at(1), endedAt: at(1) }])
  })

  it('is seen by a page that comes in the middle of it', () => {
    expect(told(moving('moving', 'rows')).active).toMatchObject([{ from: 1, to: 2, step: 1 }])
  })

  it('never goes back, whatever a look says', () => {
    const moves = told(serving(0, 1), moving('moving', 'changes'), moving('moving', 'rows'))
    expect(moves.active[0]?.step).toBe(2)
    const unknown: ShardDocument = { shard: 0, owner: 2, phase: 'unknown', holders: [] }
    expect(told(serving(0, 1), moving('leaving', 'changes'), unknown).active[0]?.step).toBe(3)
  })

  it('shows how much is copied, with and without a word of what is left', () => {
    const rows = (left: number) => moving('moving', 'rows', left, MIB)
    const shares = [1, 2, 3, 4].map((looks) => told(serving(0, 1), ...Array.from({ length: looks }, () => rows(0))).active[0]!.share)
    expect(shares).toEqual([...shares].sort((a, b) => a - b))
    expect(shares[3]).toBeGreaterThan(shares[0]!)
    const last = told(serving(0, 1), rows(0), rows(0), rows(0), rows(MIB)).active[0]!
    expect(last).toMatchObject({ bytesCopied: 3 * MIB, bytesLeft: MIB })
    expect(last.share).toBeCloseTo(0.05 + 0.75 * 0.75)
    expect(sentence(last)).toBe('shard 0 from group 1 to group 2: its rows are copied, while its old group goes on serving')
  })

  it('that is turned round is two moves', () => {
    const back: ShardDocument = { shard: 0, owner: 1, phase: 'moving', holders: [held(2, 'moving', { other: 1 }), held(1, 'arriving', { other: 2 })] }
    const moves = told(serving(0, 1), moving('moving', 'rows'), back)
    expect(moves.past).toMatchObject([{ from: 1, to: 2 }])
    expect(moves.active).toMatchObject([{ from: 2, to: 1 }])
  })

  it('is none where nobody had the shard, or nobody gets it', () => {
    const nobody: ShardDocument = { shard: 0, owner: null, phase: 'unassigned', holders: [] }
    expect(told(nobody, serving(0, 1))).toMatchObject({ active: [], past: [] })
    expect(told(serving(0, 1), nobody)).toMatchObject({ active: [], past: [] })
  })
})
