// What an operator's action will do, in sentences: shown before it is confirmed.

import type { Action } from '../api/actions'
import type { ClusterDocument } from './documents'
import { listed, plural } from './format'
import { groupName, shardsByGroup } from './view'

export type Consequences = { title: string; verb: string; danger: boolean; will: string[]; warnings: string[] }

export function consequences(action: Action, now: ClusterDocument): Consequences {
  switch (action.kind) {
    case 'move':
      return ofMove(action.shard, action.gid, now)
    case 'transfer':
      return ofTransfer(action.gid, action.node, now)
    case 'leave':
      return ofLeave(action.gid, now)
    case 'join':
      return ofJoin(action.gid, action.nodes, now)
  }
}

const guarded = (now: ClusterDocument) =>
  `Configuration ${now.config.number} becomes ${now.config.number + 1}. If somebody else changes it first, nothing is done.`

const COPY = 'Rows are copied while the old group goes on serving; requests wait only for the last piece.'

function leaderOf(gid: number, now: ClusterDocument): string | null {
  return now.groups.find((group) => group.gid === gid)?.leader ?? null
}

function leaderless(gids: readonly (number | null)[], now: ClusterDocument): string[] {
  return gids
    .filter((gid): gid is number => gid !== null && leaderOf(gid, now) === null)
    .map((gid) => `Group ${gid} has no leader now: its shards wait until it has one.`)
}

function underWay(now: ClusterDocument): string[] {
  const moving = now.shards.filter((shard) => shard.phase === 'moving').length
  return moving > 0 ? [`${plural(moving, 'shard')} still on the move: this begins when they have arrived.`] : []
}

function ofMove(shard: number, gid: number, now: ClusterDocument): Consequences {
  const owner = now.shards.find((each) => each.shard === shard)?.owner ?? null
  const from = owner === null ? 'Nobody serves it now' : `Group ${owner} serves it now (leader: ${leaderOf(owner, now) ?? 'none'})`
  return {
    title: `Move shard ${shard} to group ${gid}`,
    verb: `Move shard ${shard}`,
    danger: false,
    will: [`${from}; group ${gid} will (leader: ${leaderOf(gid, now) ?? 'none'}).`, COPY, guarded(now)],
    warnings: [
      ...(owner === gid ? [`Shard ${shard} is group ${gid}’s already.`] : []),
      ...leaderless([owner, gid], now),
      ...underWay(now),
    ],
  }
}

function ofTransfer(gid: number, node: string, now: ClusterDocument): Consequences {
  const group = now.groups.find((each) => each.gid === gid)
  const leader = group?.leader ?? null
  const name = gid === 0 ? 'the controller' : `group ${gid}`
  const lag = group?.replicas.find((replica) => replica.node === node)?.lag ?? 0
  return {
    title: `Let ${node} lead ${name}`,
    verb: `Let ${node} lead`,
    danger: false,
    will: [
      leader === null ? `${groupName(gid)} has no leader now.` : `${leader} leads ${name} now; it hands over to ${node}.`,
      'Requests to the group wait for the hand-over, some milliseconds; no shard moves.',
    ],
    warnings: lag > 0 ? [`${node} is ${plural(lag, 'entry', 'entries')} behind: the hand-over waits until it has them.`] : [],
  }
}

function ofLeave(gid: number, now: ClusterDocument): Consequences {
  const shards = shardsByGroup(now).get(gid)?.length ?? 0
  const others = now.config.groups.filter((each) => each !== gid)
  const each = others.length > 0 ? Math.ceil(shards / others.length) : 0
  const heirs = `group${others.length === 1 ? '' : 's'} ${listed(others.map(String))}`
  return {
    title: `Let group ${gid} leave`,
    verb: `Let group ${gid} leave`,
    danger: true,
    will:
      others.length === 0
        ? []
        : [
            `Its ${plural(shards, 'shard')} go to ${heirs}, about ${each}${others.length > 1 ? ' each' : ''}.`,
            COPY,
            `Its replicas stay where they are and serve nothing; it can join again.`,
            guarded(now),
          ],
    warnings: [
      ...(others.length === 0 ? ['It is the last group: nobody else could serve the shards, so this is refused.'] : []),
      ...leaderless([gid, ...others], now),
      ...underWay(now),
    ],
  }
}

function ofJoin(gid: number, nodes: readonly string[], now: ClusterDocument): Consequences {
  const groups = now.config.groups.length + 1
  const exists = now.groups.some((group) => group.gid === gid)
  const share = Math.floor(now.config.shards / groups)
  const even = nodes.length > 0 && nodes.length % 2 === 0
  const losses = Math.ceil(nodes.length / 2) - 1
  return {
    title: `Let group ${gid} join`,
    verb: `Let group ${gid} join`,
    danger: false,
    will: [
      exists
        ? `Group ${gid} is there already, and takes part again.`
        : `Group ${gid} is born on ${nodes[0] ?? 'its first node'}${nodes.length > 1 ? `; ${listed(nodes.slice(1))} ${nodes.length === 2 ? 'follows as a voter' : 'follow as voters'}` : ''}.`,
      `About ${share} of ${now.config.shards} shards move to it, the fewest that make all groups even.`,
      COPY,
      guarded(now),
    ],
    warnings: [
      ...(exists ? [] : nodes.length === 1 ? ['With one replica it is gone when that node is.'] : []),
      ...(!exists && even ? [`${nodes.length} voters stand ${plural(losses, 'loss', 'losses')}, as ${nodes.length - 1} would.`] : []),
      ...underWay(now),
    ],
  }
}

/** What the operator has still to choose; null: nothing. */
export function incomplete(action: Action, now: ClusterDocument): string | null {
  switch (action.kind) {
    case 'join':
      if (now.config.groups.includes(action.gid)) return `Group ${action.gid} takes part already.`
      return action.nodes.length === 0 ? 'Choose the nodes of the group.' : null
    case 'move':
      return now.config.groups.includes(action.gid) ? null : 'Choose the group that gets it.'
    case 'transfer':
      return action.node === '' ? 'No other node of the group answers.' : null
    case 'leave':
      return null
  }
}
