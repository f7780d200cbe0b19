import type { CSSProperties } from 'react'
import { ListBox, ListBoxItem } from 'react-aria-components'
import type { ShardDocument } from '../model/documents'
import { plural } from '../model/format'
import type { Move } from '../model/moves'
import { groupColour, shardsByGroup } from '../model/view'
import { GroupName } from './parts'
import { useKnown } from './store'

type Props = { label: string; selected?: number | null; onSelect?: (shard: number | null) => void }

/** All shards as tiles, coloured by group; one that moves fills with the colour of its next group. */
export function ShardMap({ label, selected, onSelect }: Props) {
  const shards = useKnown((state) => state.cluster!.shards)
  const active = useKnown((state) => state.moves.active)
  const moves = new Map(active.map((move) => [move.shard, move]))
  const size = shards.length <= 128 ? 'tiles-large' : shards.length <= 384 ? 'tiles-middle' : 'tiles-small'
  return (
    <ListBox
      className={`tiles ${size}`}
      aria-label={label}
      layout="grid"
      selectionMode={onSelect === undefined ? 'none' : 'single'}
      selectedKeys={selected === null || selected === undefined ? [] : [selected]}
      onSelectionChange={(keys) => onSelect?.(keys === 'all' ? null : (Number([...keys][0] ?? -1) >= 0 ? Number([...keys][0]) : null))}
      items={shards}
      dependencies={[active]}
    >
      {(shard) => <Tile shard={shard} move={moves.get(shard.shard)} />}
    </ListBox>
  )
}

function Tile({ shard, move }: { shard: ShardDocument; move: Move | undefined }) {
  const text = nameOf(shard, move)
  const style = move === undefined ? undefined : ({ '--share': `${Math.round(move.share * 100)}%` } as CSSProperties)
  return (
    <ListBoxItem
      id={shard.shard}
      textValue={text}
      className={`tile ${groupColour(shard.owner)} ${move !== undefined ? 'tile-moving' : ''} ${shard.phase === 'unknown' ? 'tile-unknown' : ''}`}
      {...(style === undefined ? {} : { style })}
    >
      {move !== undefined && <span className={`tile-from ${groupColour(move.from)}`} />}
      <span className="unseen">{text}</span>
      <span className="tile-shard" aria-hidden="true">
        {shard.shard}
      </span>
      <span className="tile-group" aria-hidden="true">
        {shard.owner === null ? '–' : `g${shard.owner}`}
      </span>
    </ListBoxItem>
  )
}

export function nameOf(shard: ShardDocument, move: Move | undefined): string {
  const name = `Shard ${shard.shard}`
  if (move !== undefined) return `${name}, on the move from group ${move.from} to group ${move.to}`
  if (shard.owner === null) return `${name}, nobody’s`
  const place = `${name}, group ${shard.owner}`
  return shard.phase === 'unknown' ? `${place}, not known: no leader says anything` : place
}

export function Legend() {
  const now = useKnown((state) => state.cluster)!
  return (
    <ul className="legend" aria-label="Groups by colour">
      {[...shardsByGroup(now)].map(([gid, shards]) => (
        <li key={gid ?? 'nobody'}>
          <GroupName gid={gid} /> <span className="soft">{plural(shards.length, 'shard')}</span>
        </li>
      ))}
    </ul>
  )
}
