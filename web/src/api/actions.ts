// Operators' actions. Each is confirmed by a header, and done only in the configuration that was looked at.

import { ask } from './http'

export type Action =
  | { kind: 'join'; gid: number; nodes: string[]; expect: number }
  | { kind: 'leave'; gid: number; expect: number }
  | { kind: 'move'; shard: number; gid: number; expect: number }
  | { kind: 'transfer'; gid: number; node: string }

function bodyOf(action: Action): object {
  switch (action.kind) {
    case 'join':
      return { groups: { [action.gid]: action.nodes }, expect: action.expect }
    case 'leave':
      return { gids: [action.gid], expect: action.expect }
    case 'move':
      return { shard: action.shard, gid: action.gid, expect: action.expect }
    case 'transfer':
      return { gid: action.gid, node: action.node }
  }
}

export async function act(action: Action): Promise<void> {
  await ask(`/cluster/${action.kind}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'shardkv-confirm': action.kind },
    body: JSON.stringify(bodyOf(action)),
  })
}
