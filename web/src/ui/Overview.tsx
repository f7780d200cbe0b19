import { Charts } from './Charts'
import { EventList } from './Events'
import { Figures } from './Figures'
import { GroupTable } from './GroupTable'
import { NodeTable } from './NodeTable'
import { Panel } from './parts'
import { Legend, ShardMap } from './ShardMap'
import { MoveList } from './MoveList'
import { useKnown } from './store'
import { hrefOf } from './views'

export function Overview() {
  const cluster = useKnown((state) => state.cluster)!
  const events = useKnown((state) => state.events)
  const active = useKnown((state) => state.moves.active)
  return (
    <>
      <h1 className="unseen">Overview</h1>
      <Figures />
      <div className="overview">
        <div className="stack">
          <Panel title="Nodes" id="nodes">
            <NodeTable nodes={cluster.nodes} by={cluster.by} />
          </Panel>
          <Panel title="Groups" id="groups">
            <GroupTable />
          </Panel>
          <Panel title="Shards" id="shards" aside={<a href={hrefOf('shards')}>Watch and move</a>}>
            <ShardMap label="Shards by group" />
            <Legend />
            {active.length > 0 && <MoveList moves={active.slice(0, 3)} brief />}
          </Panel>
        </div>
        <div className="stack">
          <Charts />
          <Panel title="Events" id="events" aside={<a href={hrefOf('events')}>All events</a>}>
            <EventList events={[...events].slice(-14).reverse()} />
          </Panel>
        </div>
      </div>
    </>
  )
}
