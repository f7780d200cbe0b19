// What the charts draw: a few minutes of samples, about one a second.

import type { ClusterDocument } from './documents'

export type Sample = {
  at: number // seconds since the epoch
  reads: number | null
  writes: number | null
  rejected: number | null
  readMedian: number | null
  readTail: number | null
  writeMedian: number | null
  writeTail: number | null
}

export const WINDOW_SECONDS = 300
const PAUSE_SECONDS = 0.85 // snapshots come more often while shards move
const GAP_SECONDS = 5

const nothing = (at: number): Sample => ({
  at, reads: null, writes: null, rejected: null,
  readMedian: null, readTail: null, writeMedian: null, writeTail: null,
})

/** With this snapshot; a hole where none came for some seconds. */
export function sampled(history: readonly Sample[], now: ClusterDocument): readonly Sample[] {
  const at = Date.parse(now.at) / 1000
  const last = history[history.length - 1]
  if (Number.isNaN(at) || (last !== undefined && at - last.at < PAUSE_SECONDS && at >= last.at)) return history
  // The clock of another node may be behind: what was drawn after its time is not drawn twice.
  const kept = history.filter((sample) => sample.at < at && sample.at > at - WINDOW_SECONDS)
  const hole = kept.length > 0 && at - kept[kept.length - 1]!.at > GAP_SECONDS
  const known = now.nodes.some((node) => node.reads_per_second !== null)
  const { rates } = now
  const sample: Sample = {
    at,
    reads: known ? rates.reads_per_second : null,
    writes: known ? rates.writes_per_second : null,
    rejected: known ? rates.rejected_per_second : null,
    readMedian: rates.read_ms.p50,
    readTail: rates.read_ms.p99,
    writeMedian: rates.write_ms.p50,
    writeTail: rates.write_ms.p99,
  }
  return hole ? [...kept, nothing(at - GAP_SECONDS + 1), sample] : [...kept, sample]
}

/** Columns for the chart: times, then a series a field. */
export function columns(history: readonly Sample[], fields: readonly (keyof Sample)[]): (number | null)[][] {
  return [history.map((sample) => sample.at), ...fields.map((field) => history.map((sample) => sample[field]))]
}

/** The largest of a field, and the newest. */
export function extent(history: readonly Sample[], field: keyof Sample): { most: number | null; last: number | null } {
  const known = history.map((sample) => sample[field]).filter((value): value is number => value !== null)
  return { most: known.length > 0 ? Math.max(...known) : null, last: history[history.length - 1]?.[field] ?? null }
}
