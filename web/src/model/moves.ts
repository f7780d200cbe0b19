// Moves of shards, told from one snapshot to the next.

import type { ClusterDocument, ShardDocument } from './documents'

export const STEPS = [
  { name: 'Assigned', what: 'a new configuration gives the shard to its next group' },
  { name: 'Rows', what: 'its rows are copied, while its old group goes on serving' },
  { name: 'Changes', what: 'what changed in the meantime is copied' },
  { name: 'Frozen', what: 'the last piece is copied; requests wait for a moment' },
  { name: 'Served', what: 'the next group serves it' },
  { name: 'Cleared', what: 'the old group has let go of its copy' },
] as const

export const DONE = STEPS.length - 1

export type Move = {
  shard: number
  from: number
  to: number
  config: number
  step: number // index into STEPS: the one that it is in
  startedAt: string
  seenAt: (string | null)[] // of each step, when it was first seen; null: not seen, it was too quick
  share: number // how much is done, from 0 to 1; it never falls
  bytesCopied: number // about
  bytesLeft: number // about; 0 while it is not known: what is not in tables yet is not counted
  bytesPerSecond: number
  endedAt: string | null
}

export type Moves = { owners: readonly (number | null)[]; active: readonly Move[]; past: readonly Move[] }

export const NO_MOVES: Moves = { owners: [], active: [], past: [] }
const PAST_MAX = 30

/** The group that has or had the shard and gives it away; null if there is none. */
function sourceOf(shard: ShardDocument): number | null {
  const giving = shard.holders.find((held) => held.gid !== shard.owner)
  const taking = shard.holders.find((held) => held.gid === shard.owner)
  return giving?.gid ?? taking?.other ?? null
}

/** Which of STEPS a shard is in. */
export function stepOf(shard: ShardDocument): number {
  const taking = shard.holders.find((held) => held.gid === shard.owner)
  const giving = shard.holders.find((held) => held.gid !== shard.owner)
  if (taking?.phase === 'serving') return giving === undefined ? DONE : 4
  if (giving?.phase === 'leaving') return 3
  if (taking?.progress === 'changes') return 2
  return taking?.progress === 'rows' ? 1 : 0
}

/** What is known of moves after this snapshot. */
export function followed(moves: Moves, now: ClusterDocument): Moves {
  const active = new Map(moves.active.map((move) => [move.shard, move]))
  const past = [...moves.past]
  for (const shard of now.shards) {
    let move = active.get(shard.shard)
    const before = moves.owners[shard.shard]
    const from = before !== undefined && before !== null && before !== shard.owner ? before : sourceOf(shard)
    if (shard.owner === null) {
      active.delete(shard.shard) // it goes to nobody: that is no move
      continue
    }
    if (move !== undefined && move.to !== shard.owner) {
      past.push({ ...move, step: DONE, endedAt: now.at })
      move = undefined
    }
    const begins = shard.phase === 'moving' || (before !== undefined && before !== shard.owner)
    if (move === undefined && begins && from !== null) move = begun(shard, from, now)
    if (move === undefined) continue
    const advanced = progressed(move, shard, now.at)
    if (advanced.endedAt === null) {
      active.set(shard.shard, advanced)
    } else {
      active.delete(shard.shard)
      past.push(advanced)
    }
  }
  return {
    owners: now.shards.map((shard) => shard.owner),
    active: [...active.values()].sort((a, b) => a.shard - b.shard),
    past: past.slice(-PAST_MAX),
  }
}

function begun(shard: ShardDocument, from: number, now: ClusterDocument): Move {
  return {
    shard: shard.shard,
    from,
    to: shard.owner!,
    config: now.config.number,
    step: 0,
    startedAt: now.at,
    seenAt: STEPS.map(() => null),
    share: 0,
    bytesCopied: 0,
    bytesLeft: 0,
    bytesPerSecond: 0,
    endedAt: null,
  }
}

function progressed(move: Move, shard: ShardDocument, at: string): Move {
  const taking = shard.holders.find((held) => held.gid === shard.owner)
  // Without a word of the leaders (an election, say) nothing has moved that we know of.
  const step = shard.phase === 'unknown' ? move.step : Math.max(move.step, stepOf(shard))
  const left = step === 1 ? (taking?.bytes_left ?? 0) : 0
  const perSecond = taking?.bytes_per_second ?? 0
  const seconds = Math.max(0, (Date.parse(at) - Date.parse(move.seenAt[1] ?? at)) / 1000)
  const copied = step === 1 ? Math.max(move.bytesCopied, perSecond * seconds) : move.bytesCopied
  return {
    ...move,
    step,
    seenAt: move.seenAt.map((seen, index) => (index === step ? (seen ?? at) : seen)),
    share: Math.max(move.share, shareOf(step, copied, left)),
    bytesCopied: copied,
    bytesLeft: left,
    bytesPerSecond: perSecond,
    endedAt: step === DONE ? at : null,
  }
}

const MUCH = 8 * 1024 * 1024

/** Rows are most of a move. While it is not known how many are left, the bar goes ever slower. */
function shareOf(step: number, copied: number, left: number): number {
  const rows = left > 0 ? copied / (copied + left) : 0.6 * (1 - Math.exp(-copied / MUCH))
  return [0.02, 0.05 + 0.75 * rows, 0.85, 0.92, 0.97, 1][step] ?? 1
}

/** A move in one sentence, for a progress bar's text. */
export function sentence(move: Move): string {
  const place = `shard ${move.shard} from group ${move.from} to group ${move.to}`
  return `${place}: ${STEPS[move.step]?.what ?? ''}`
}
