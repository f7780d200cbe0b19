// The log of events, through reconnections and restarts of the node that tells it.

import type { EventDocument } from './documents'

export const EVENTS_MAX = 1000

/**
 * What makes an event the same one. A node numbers its events anew in each of its lives, and when it
 * comes back it notices again who leads: a term has one leader, so that is no news.
 */
export function identity(event: EventDocument): string {
  if (event.kind === 'leader') return `leader ${event.gid} ${event.term}`
  if (event.kind === 'config') return `config ${event.config}`
  return `${event.number} ${event.at} ${event.text}`
}

/** With this event, newest last; the same array if it is known. */
export function logged(events: readonly EventDocument[], event: EventDocument): readonly EventDocument[] {
  const same = identity(event)
  for (let at = events.length - 1; at >= 0; at--) if (identity(events[at]!) === same) return events
  let at = events.length
  while (at > 0 && events[at - 1]!.at > event.at) at -= 1
  const all = [...events.slice(0, at), event, ...events.slice(at)]
  return all.length > EVENTS_MAX ? all.slice(-EVENTS_MAX) : all
}

export type Weight = 'bad' | 'warn' | 'good' | 'plain'

/** How much an event asks for attention. */
export function weightOf(event: EventDocument): Weight {
  if (event.kind === 'leaderless' || event.kind === 'replica') return 'bad'
  if (event.kind === 'node') return event.is === 'silent' ? 'bad' : event.is === 'restarted' ? 'warn' : 'good'
  return 'plain'
}

export const KINDS: Record<string, string> = {
  leader: 'Election',
  leaderless: 'No leader',
  config: 'Configuration',
  shard: 'Move',
  node: 'Node',
  members: 'Members',
  replica: 'Replica',
}

/** Which filter an event is under. */
export const FILTERS: Record<string, readonly string[]> = {
  Elections: ['leader', 'leaderless'],
  Moves: ['shard', 'config'],
  Nodes: ['node', 'replica'],
  Members: ['members'],
}

/** The events of these filters (all if none is chosen) whose text has the words, newest first. */
export function filtered(events: readonly EventDocument[], filters: ReadonlySet<string>, words: string) {
  const kinds = new Set([...filters].flatMap((name) => FILTERS[name] ?? []))
  const wanted = words.trim().toLowerCase()
  return events
    .filter((event) => (kinds.size === 0 || kinds.has(event.kind)) && event.text.toLowerCase().includes(wanted))
    .reverse()
}
