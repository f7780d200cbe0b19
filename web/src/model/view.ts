// What is drawn, from what nodes say.

import type { ClusterDocument, GroupDocument, NodeDocument, ReplicaDocument } from './documents'
import { duration, listed, plural } from './format'

export type Tone = 'good' | 'warn' | 'bad' | 'idle'

export type Badge = { tone: Tone; text: string; more?: string }

/** How a node is, in a word or two. */
export function nodeBadge(node: NodeDocument): Badge {
  if (node.state === 'silent') {
    const seen = node.last_seen_seconds
    return { tone: 'bad', text: 'silent', more: seen === null ? 'not seen yet' : `last seen ${duration(seen)} ago` }
  }
  if (node.state !== 'running') return { tone: 'warn', text: node.state }
  if (node.health === 'suspect' || node.health === 'dead') {
    return { tone: 'warn', text: node.health, more: 'the controller’s leader does not hear it' }
  }
  if (node.roomy === false) return { tone: 'bad', text: 'disk full', more: 'it takes no writes until there is room' }
  if (node.quick === false) return { tone: 'warn', text: 'slow disk', more: 'it gives its leaderships away' }
  return { tone: 'good', text: 'running' }
}

export type Cell =
  | { kind: 'none' }
  | { kind: 'silent' }
  | { kind: 'replica'; role: string; tone: Tone; replica: ReplicaDocument }

/** What a node is to a group. */
export function cellOf(group: GroupDocument, node: NodeDocument): Cell {
  const replica = group.replicas.find((each) => each.node === node.node)
  const member = [group.voters, group.outgoing, group.learners].some((names) => names.includes(node.node))
  if (replica === undefined) return member ? { kind: 'silent' } : { kind: 'none' }
  const learner = group.learners.includes(node.node)
  const outgoing = group.outgoing.includes(node.node) && !group.voters.includes(node.node)
  const role = replica.role !== 'leader' && learner ? 'learner' : outgoing ? 'leaving' : replica.role
  const tone = role === 'stopped' ? 'bad' : role === 'leader' || role === 'follower' ? 'good' : 'warn'
  return { kind: 'replica', role, tone, replica }
}

/** How a group is. */
export function groupBadge(group: GroupDocument, nodes: readonly NodeDocument[]): Badge {
  if (group.leader === null) return { tone: 'bad', text: 'no leader', more: 'nobody serves it until one is elected' }
  const answering = new Set(nodes.filter((node) => node.state !== 'silent').map((node) => node.node))
  const missing = group.voters.filter((name) => !answering.has(name))
  const stopped = group.replicas.filter((replica) => replica.role === 'stopped').map((replica) => replica.node)
  const without = [...missing, ...stopped]
  if (without.length === 0) {
    if (group.outgoing.length + group.learners.length > 0) return { tone: 'warn', text: 'changing' }
    return { tone: 'good', text: 'whole' }
  }
  const spare = Math.ceil(group.voters.length / 2) - 1 - without.length
  return {
    tone: 'warn',
    text: `${group.voters.length - without.length} of ${group.voters.length}`,
    more: `without ${listed(without)}; ${spare > 0 ? `it stands ${plural(spare, 'more loss', 'more losses')}` : 'it stands no more losses'}`,
  }
}

export function groupName(gid: number): string {
  return gid === 0 ? 'Controller' : `Group ${gid}`
}

/** The class that has a group's colour; there are ten, in turn. */
export function groupColour(gid: number | null): string {
  return gid === null ? 'g-none' : gid === 0 ? 'g-controller' : `g${(gid - 1) % 10}`
}

/** The shards of each group by the configuration, and of nobody. */
export function shardsByGroup(now: ClusterDocument): Map<number | null, number[]> {
  const found = new Map<number | null, number[]>(now.config.groups.map((gid) => [gid, []]))
  for (const { shard, owner } of now.shards) found.set(owner, [...(found.get(owner) ?? []), shard])
  return found
}

/** The whole cluster in a sentence: the worst first. */
export function standing(now: ClusterDocument): Badge {
  const silent = now.nodes.filter((node) => node.state === 'silent').map((node) => node.node)
  const leaderless = now.groups.filter((group) => group.leader === null).map((group) => groupName(group.gid))
  const ill = now.nodes.filter((node) => node.state !== 'silent' && nodeBadge(node).tone !== 'good')
  const stopped = now.groups.flatMap((group) =>
    group.replicas.filter((each) => each.role === 'stopped').map((each) => `${groupName(group.gid)} on ${each.node}`),
  )
  const said: string[] = []
  if (leaderless.length > 0) said.push(`${listed(leaderless)} ${leaderless.length === 1 ? 'has' : 'have'} no leader`)
  if (silent.length > 0) said.push(`${listed(silent)} ${silent.length === 1 ? 'does' : 'do'} not answer`)
  if (stopped.length > 0) said.push(`the replica of ${listed(stopped)} has stopped`)
  for (const node of ill) said.push(`${node.node}: ${nodeBadge(node).text}`)
  if (said.length > 0) {
    return { tone: leaderless.length > 0 ? 'bad' : 'warn', text: said.join('; ') }
  }
  const moving = now.shards.filter((shard) => shard.phase === 'moving').length
  const stores = now.groups.filter((group) => group.role === 'store').length
  const all = `${plural(now.nodes.length, 'node')} and ${plural(stores, 'group')} are well`
  return moving > 0
    ? { tone: 'idle', text: `${all}; ${plural(moving, 'shard')} on the move` }
    : { tone: 'good', text: all }
}

/** Pages of the other nodes, as far as they were ever told. */
export function otherPages(
  addresses: ReadonlyMap<string, string>,
  own: string | null,
  protocol: string,
): [string, string][] {
  return [...addresses].filter(([node]) => node !== own).map(([node, http]) => [node, `${protocol}//${http}/`])
}

/** Nodes that may lead a group instead of the one that does. */
export function successors(group: GroupDocument, now: ClusterDocument): string[] {
  const answering = new Set(now.nodes.filter((node) => node.state === 'running').map((node) => node.node))
  return group.voters.filter((name) => name !== group.leader && answering.has(name))
}

/** The least id that no group has or had, as far as is known here. */
export function nextGid(now: ClusterDocument): number {
  return Math.max(0, ...now.config.groups, ...now.groups.map((group) => group.gid)) + 1
}
