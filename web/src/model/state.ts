// All that the page knows, and how each message changes it. Pure.

import type { ClusterDocument, EventDocument } from './documents'
import { type Sample, sampled } from './history'
import { logged } from './log'
import { followed, type Moves, NO_MOVES } from './moves'

export type Connection =
  | { state: 'connecting' }
  | { state: 'live' }
  | { state: 'resting' } // nobody looks at the page: it lets go of its connection
  | { state: 'lost'; since: number; why: string } // milliseconds since the epoch

export type State = {
  cluster: ClusterDocument | null
  events: readonly EventDocument[]
  moves: Moves
  history: readonly Sample[]
  connection: Connection
  addresses: ReadonlyMap<string, string> // node -> where its page is, when it last said so
  version: string | null // of the node when the page was opened: the page's own
}

export type Message =
  | { kind: 'cluster'; document: ClusterDocument }
  | { kind: 'event'; document: EventDocument }
  | { kind: 'lost'; at: number; why: string }
  | { kind: 'resting' }
  | { kind: 'history'; history: readonly Sample[] } // kept by the browser over a reload

export const EMPTY: State = {
  cluster: null,
  events: [],
  moves: NO_MOVES,
  history: [],
  connection: { state: 'connecting' },
  addresses: new Map(),
  version: null,
}

export function reduced(state: State, message: Message): State {
  switch (message.kind) {
    case 'cluster':
      return seen(state, message.document)
    case 'event': {
      const events = logged(state.events, message.document)
      return events === state.events ? state : { ...state, events }
    }
    case 'lost': {
      // The first moment counts, however often it is tried again.
      const since = state.connection.state === 'lost' ? state.connection.since : message.at
      return { ...state, connection: { state: 'lost', since, why: message.why } }
    }
    case 'resting':
      return { ...state, connection: { state: 'resting' } }
    case 'history':
      return state.history.length === 0 ? { ...state, history: message.history } : state
  }
}

function seen(state: State, now: ClusterDocument): State {
  const live: Connection = state.connection.state === 'live' ? state.connection : { state: 'live' }
  // A node that has no view yet (it was just started) knows less than the page does.
  const blank = now.shards.length === 0 && state.cluster !== null && state.cluster.shards.length > 0
  return {
    ...state,
    cluster: now,
    connection: live,
    moves: blank ? state.moves : followed(state.moves, now),
    history: sampled(state.history, now),
    addresses: withAddresses(state.addresses, now),
    version: state.version ?? versionOf(now),
  }
}

function versionOf(now: ClusterDocument): string | null {
  return now.nodes.find((node) => node.node === now.by)?.version ?? null
}

/** The version that the node has come back with, if it is not the page's; null: the page is its own. */
export function newVersion(state: State): string | null {
  const now = state.cluster === null ? null : versionOf(state.cluster)
  return now !== null && state.version !== null && now !== state.version ? now : null
}

function withAddresses(known: ReadonlyMap<string, string>, now: ClusterDocument): ReadonlyMap<string, string> {
  const told = now.nodes.filter((node) => node.http !== null && known.get(node.node) !== node.http)
  if (told.length === 0) return known
  const all = new Map(known)
  for (const node of told) all.set(node.node, node.http!)
  return new Map([...all].sort(([a], [b]) => a.localeCompare(b, 'en', { numeric: true })))
}
