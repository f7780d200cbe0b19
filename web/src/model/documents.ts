// What a node sends: the documents of /cluster and /events, as docs/http.md has them.

export type Percentiles = { p50: number | null; p99: number | null }

export type NodeDocument = {
  node: string
  state: 'running' | 'starting' | 'stopping' | 'silent'
  last_seen_seconds: number | null
  version: string | null
  uptime_seconds: number | null
  client: string | null
  http: string | null
  leads: number[]
  health: 'alive' | 'suspect' | 'dead' | null
  roomy: boolean | null
  quick: boolean | null
  waiting: number | null
  reads_per_second: number | null
  writes_per_second: number | null
  rejected_per_second: number | null
  read_ms: Percentiles
  write_ms: Percentiles
}

export type ReplicaDocument = {
  node: string
  role: string
  term: number
  applied: number
  lag: number
  log_bytes: number
}

export type GroupDocument = {
  gid: number
  role: 'controller' | 'store'
  leader: string | null
  term: number
  commit: number
  config: number
  voters: string[]
  outgoing: string[]
  learners: string[]
  phases: Record<string, number>
  replicas: ReplicaDocument[]
}

export type Holder = {
  gid: number
  phase: string
  other: number | null
  progress: string
  bytes_left: number
  bytes_per_second: number
}

export type ShardDocument = {
  shard: number
  owner: number | null
  phase: 'serving' | 'moving' | 'unassigned' | 'unknown'
  holders: Holder[]
}

export type ClusterDocument = {
  number: number
  at: string
  by: string
  config: { number: number; shards: number; groups: number[] }
  nodes: NodeDocument[]
  groups: GroupDocument[]
  shards: ShardDocument[]
  rates: {
    reads_per_second: number
    writes_per_second: number
    rejected_per_second: number
    read_ms: Percentiles
    write_ms: Percentiles
  }
}

export type EventDocument = {
  number: number
  at: string
  kind: string
  text: string
  gid?: number
  node?: string
  term?: number
  is?: string
  phase?: string
  shards?: number[]
  config?: number
}

export type ProblemDocument = { type: string; title: string; status: number; detail: string }
