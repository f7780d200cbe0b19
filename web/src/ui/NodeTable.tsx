import type { NodeDocument } from '../model/documents'
import { count, duration, milliseconds, rate } from '../model/format'
import { groupColour, groupName, nodeBadge } from '../model/view'
import { BadgeView, Scroller } from './parts'
import { useKnown } from './store'

export function NodeTable({ nodes, by }: { nodes: readonly NodeDocument[]; by: string }) {
  const addresses = useKnown((state) => state.addresses)
  return (
    <Scroller label="Nodes, a table">
      <table className="nodes">
        <thead>
          <tr>
            <th scope="col">Node</th>
            <th scope="col">State</th>
            <th scope="col">Leads</th>
            <th scope="col" className="number">Reads/s</th>
            <th scope="col" className="number">Writes/s</th>
            <th scope="col" className="number"><abbr title="99 of 100 reads took no longer">Read p99</abbr></th>
            <th scope="col" className="number"><abbr title="99 of 100 writes took no longer">Write p99</abbr></th>
            <th scope="col" className="number"><abbr title="operations that wait for their answer now">Waiting</abbr></th>
            <th scope="col" className="number">Up</th>
          </tr>
        </thead>
        <tbody>
          {nodes.map((node) => (
            <Row key={node.node} node={node} own={node.node === by} http={addresses.get(node.node)} />
          ))}
        </tbody>
      </table>
    </Scroller>
  )
}

function Row({ node, own, http }: { node: NodeDocument; own: boolean; http: string | undefined }) {
  return (
    <tr className={node.state === 'silent' ? 'row-bad' : undefined}>
      <th scope="row">
        {own || http === undefined ? node.node : <a href={`${location.protocol}//${http}/`}>{node.node}</a>}
        {own && <span className="soft small"> this page</span>}
      </th>
      <td>
        <BadgeView badge={nodeBadge(node)} />
      </td>
      <td>
        <Leads gids={node.leads} />
      </td>
      <td className="number">{rate(node.reads_per_second)}</td>
      <td className="number">{rate(node.writes_per_second)}</td>
      <td className="number">{milliseconds(node.read_ms.p99)}</td>
      <td className="number">{milliseconds(node.write_ms.p99)}</td>
      <td className="number">{count(node.waiting)}</td>
      <td className="number">{duration(node.uptime_seconds)}</td>
    </tr>
  )
}

const CHIPS_MAX = 4

function Leads({ gids }: { gids: readonly number[] }) {
  if (gids.length === 0) return <span className="soft">–</span>
  const rest = gids.slice(CHIPS_MAX)
  return (
    <span className="chips">
      {gids.slice(0, CHIPS_MAX).map((gid) => (
        <span key={gid} className={`chip ${groupColour(gid)}`} title={groupName(gid)}>
          {gid === 0 ? 'ctl' : gid}
        </span>
      ))}
      {rest.length > 0 && (
        <span className="soft small" title={`groups ${rest.join(', ')}`}>
          +{rest.length}
        </span>
      )}
    </span>
  )
}
