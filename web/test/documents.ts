// Documents as a node would send them, for the tests.

import type { ClusterDocument, EventDocument, GroupDocument, Holder, NodeDocument, ShardDocument } from '../src/model/documents'

const NOBODY = { p50: null, p99: null }

export function node(name: string, more: Partial<NodeDocument> = {}): NodeDocument {
  return {
    node: name, state: 'running', last_seen_seconds: 0, version: '1', uptime_seconds: 9, client: `${name}:1`,
    http: `${name}:3`, leads: [], health: 'alive', roomy: true, quick: true, waiting: 0,
    reads_per_second: 0, writes_per_second: 0, rejected_per_second: 0, read_ms: NOBODY, write_ms: NOBODY, ...more,
  }
}

export const silent = (name: string, seconds: number | null = 4) =>
  node(name, {
    state: 'silent', last_seen_seconds: seconds, http: null, client: null, uptime_seconds: null,
    reads_per_second: null, writes_per_second: null, rejected_per_second: null, waiting: null,
  })

export function group(gid: number, leader: string | null, more: Partial<GroupDocument> = {}): GroupDocument {
  const voters = more.voters ?? ['n1', 'n2', 'n3']
  return {
    gid, role: gid === 0 ? 'controller' : 'store', leader, term: 3, commit: 90, config: 2,
    voters, outgoing: [], learners: [], phases: {},
    replicas: voters.map((name) => ({
      node: name, role: name === leader ? 'leader' : 'follower', term: 3, applied: 90, lag: 0, log_bytes: 7,
    })),
    ...more,
  }
}

export function held(gid: number, phase: string, more: Partial<Holder> = {}): Holder {
  return { gid, phase, other: null, progress: '', bytes_left: 0, bytes_per_second: 0, ...more }
}

export const serving = (shard: number, owner: number): ShardDocument => ({
  shard, owner, phase: 'serving', holders: [held(owner, 'serving')],
})

export function cluster(more: Partial<ClusterDocument> = {}): ClusterDocument {
  return {
    number: 1, at: '2026-11-21T12:00:00.000Z', by: 'n1',
    config: { number: 2, shards: 4, groups: [1, 2] },
    nodes: [node('n1'), node('n2'), node('n3')],
    groups: [group(0, 'n1'), group(1, 'n1'), group(2, 'n2')],
    shards: [serving(0, 1), serving(1, 2), serving(2, 1), serving(3, 2)],
    rates: { reads_per_second: 10, writes_per_second: 5, rejected_per_second: 0, read_ms: NOBODY, write_ms: NOBODY },
    ...more,
  }
}

/** So many seconds after the first snapshot. */
export const at = (seconds: number) => new Date(Date.UTC(2026, 10, 21, 12) + seconds * 1000).toISOString()

export function event(number: number, kind: string, text: string, more: Partial<EventDocument> = {}): EventDocument {
  return { number, at: at(number), kind, text, ...more }
}
