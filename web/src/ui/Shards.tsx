import { useState } from 'react'
import { Button } from 'react-aria-components'
import type { ShardDocument } from '../model/documents'
import { ranges } from '../model/format'
import { shardsByGroup } from '../model/view'
import { useActing } from './acting'
import { MoveList, PastMoves } from './MoveList'
import { GroupName, Panel, Scroller } from './parts'
import { Legend, nameOf, ShardMap } from './ShardMap'
import { useKnown } from './store'

const MOVES_MAX = 8

export function Shards() {
  const now = useKnown((state) => state.cluster)!
  const moves = useKnown((state) => state.moves)
  const [selected, select] = useState<number | null>(null)
  const shard = selected === null ? undefined : now.shards[selected]
  return (
    <>
      <h1 className="unseen">Shards</h1>
      <div className="shards-view">
        <Panel title={`${now.config.shards} shards, configuration ${now.config.number}`} id="map">
          <ShardMap label="Shards by group: choose one to see more" selected={selected} onSelect={select} />
          <Legend />
          {shard === undefined ? (
            <p className="soft small">Choose a shard to see where it is, and to move it.</p>
          ) : (
            <Detail shard={shard} />
          )}
        </Panel>
        <div className="stack">
          <Panel title="Moves" id="moves">
            {moves.active.length === 0 && (
              <p className="soft small">
                Nothing moves. A move is seen here phase by phase: the rows are copied while the old group serves, then what
                changed, then the shard is frozen for the last piece, and the new group serves.
              </p>
            )}
            {moves.active.length > 0 && <MoveList moves={moves.active.slice(0, MOVES_MAX)} />}
            {moves.active.length > MOVES_MAX && <p className="soft small">And {moves.active.length - MOVES_MAX} more.</p>}
            {moves.past.length > 0 && (
              <>
                <h3>Done</h3>
                <Scroller label="Moves that are done" tall>
                  <PastMoves moves={moves.past} />
                </Scroller>
              </>
            )}
          </Panel>
          <Panel title="By group" id="by-group">
            <Scroller label="Shards of each group" tall>
            <dl className="by-group">
              {[...shardsByGroup(now)].map(([gid, shards]) => (
                <div key={gid ?? 'nobody'}>
                  <dt>
                    <GroupName gid={gid} />
                  </dt>
                  <dd className="soft">{shards.length === 0 ? 'none' : ranges(shards)}</dd>
                </div>
              ))}
            </dl>
            </Scroller>
          </Panel>
        </div>
      </div>
    </>
  )
}

function Detail({ shard }: { shard: ShardDocument }) {
  const act = useActing()
  const move = useKnown((state) => state.moves.active.find((each) => each.shard === shard.shard))
  const live = useKnown((state) => state.connection.state === 'live')
  return (
    <div className="detail" role="group" aria-label={`Shard ${shard.shard}`}>
      <div>
        <p>
          <strong>{nameOf(shard, move?.from ?? null)}</strong>
        </p>
        <p className="soft small">
          {shard.holders.length === 0
            ? 'No leader says that it has it.'
            : shard.holders.map((held) => `group ${held.gid}: ${held.phase}${held.progress === '' ? '' : ` (${held.progress})`}`).join(', ')}
        </p>
      </div>
      <Button className="button" isDisabled={!live} onPress={() => act('move', { shard: shard.shard })}>
        Move shard {shard.shard}…
      </Button>
    </div>
  )
}
