import { memo } from 'react'
import { Button, Menu, MenuItem, MenuTrigger, Popover } from 'react-aria-components'
import type { GroupDocument, NodeDocument } from '../model/documents'
import { bytes, count } from '../model/format'
import { cellOf, groupBadge, groupName, shardsByGroup } from '../model/view'
import { useActing } from './acting'
import { BadgeView, GroupName, Scroller } from './parts'
import { useKnown } from './store'

const LAG_MANY = 100 // fewer are on their way at any moment

/** Groups by nodes: who leads, who follows, how far each has applied. */
export function GroupTable() {
  const now = useKnown((state) => state.cluster)!
  const shards = shardsByGroup(now)
  return (
    <Scroller label="Groups and their replicas, a table" tall>
      <table className="groups">
        <thead>
          <tr>
            <th scope="col">Group</th>
            {now.nodes.map((node) => (
              <th scope="col" key={node.node}>
                {node.node}
              </th>
            ))}
            <th scope="col" className="number">Shards</th>
            <th scope="col">
              <span className="unseen">Actions</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {now.groups.map((group) => (
            <tr key={group.gid}>
              <th scope="row">
                <GroupName gid={group.gid} />
                <span className="under">
                  term {count(group.term)}, commit {count(group.commit)}
                </span>
                <State group={group} nodes={now.nodes} />
              </th>
              {now.nodes.map((node) => (
                <td key={node.node}>
                  <Replica group={group} node={node} />
                </td>
              ))}
              <td className="number">{group.gid === 0 ? '' : count(shards.get(group.gid)?.length ?? 0)}</td>
              <td className="number">
                <GroupMenu gid={group.gid} takesPart={now.config.groups.includes(group.gid)} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroller>
  )
}

/** Only what is not as it should be is said. */
function State({ group, nodes }: { group: GroupDocument; nodes: readonly NodeDocument[] }) {
  const badge = groupBadge(group, nodes)
  return badge.tone === 'good' ? null : <BadgeView badge={badge} />
}

function Replica({ group, node }: { group: GroupDocument; node: NodeDocument }) {
  const cell = cellOf(group, node)
  if (cell.kind === 'none') return <span className="soft">–</span>
  if (cell.kind === 'silent') return <span className="role role-silent">silent</span>
  const { replica, role } = cell
  return (
    <div className="replica" title={`term ${replica.term}, log ${bytes(replica.log_bytes)}`}>
      <span className={`role role-${role}`}>{role}</span>
      <span className="applied">
        <span className="unseen">applied </span>
        {count(replica.applied)}
        {replica.lag > 0 && (
          <span className={replica.lag >= LAG_MANY ? 'lag' : undefined}>
            {' '}
            <span aria-hidden="true">−{count(replica.lag)}</span>
            <span className="unseen">, {count(replica.lag)} behind</span>
          </span>
        )}
      </span>
    </div>
  )
}

const GroupMenu = memo(function GroupMenu({ gid, takesPart }: { gid: number; takesPart: boolean }) {
  const act = useActing()
  const live = useKnown((state) => state.connection.state === 'live')
  const items = [
    { id: 'transfer', name: 'Transfer leadership…' },
    ...(gid > 0 && takesPart ? [{ id: 'move', name: 'Move a shard to it…' }, { id: 'leave', name: 'Let it leave…' }] : []),
    ...(gid > 0 && !takesPart ? [{ id: 'join', name: 'Let it join again…' }] : []),
  ]
  return (
    <MenuTrigger>
      <Button className="button icon quiet" aria-label={`Actions on ${groupName(gid)}`} isDisabled={!live}>
        <svg viewBox="0 0 16 16" width="16" height="16" fill="currentColor" aria-hidden="true">
          <circle cx="3" cy="8" r="1.5" />
          <circle cx="8" cy="8" r="1.5" />
          <circle cx="13" cy="8" r="1.5" />
        </svg>
      </Button>
      <Popover className="popover" placement="bottom end">
        <Menu
          className="menu"
          aria-label={`Actions on ${groupName(gid)}`}
          items={items}
          onAction={(key) => act(String(key) as 'move', { gid })}
        >
          {(item) => <MenuItem id={item.id}>{item.name}</MenuItem>}
        </Menu>
      </Popover>
    </MenuTrigger>
  )
})
