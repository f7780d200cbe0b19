import { type CSSProperties, type KeyboardEvent, memo, useId, useRef, useState } from 'react'
import type { ShardDocument } from '../model/documents'
import { plural } from '../model/format'
import { moved } from '../model/grid'
import { groupColour, shardsByGroup } from '../model/view'
import { GroupName } from './parts'
import { useKnown } from './store'

type Props = { label: string; selected?: number | null; onSelect?: (shard: number | null) => void }

/**
 * All shards as tiles, coloured by group; one that moves fills with the colour of its next group.
 *
 * There may be a thousand, and each second brings news: so a tile is drawn again only if it is
 * another, and the keyboard's place is one attribute of the whole.
 */
export function ShardMap({ label, selected = null, onSelect }: Props) {
  const shards = useKnown((state) => state.cluster!.shards)
  const active = useKnown((state) => state.moves.active)
  const moves = new Map(active.map((move) => [move.shard, move]))
  const size = shards.length <= 128 ? 'tiles-large' : shards.length <= 384 ? 'tiles-middle' : 'tiles-small'
  const id = useId()
  const place = useRef<HTMLUListElement>(null)
  const [at, go] = useState(0)
  const chooses = onSelect !== undefined

  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault()
      onSelect?.(selected === at ? null : at)
      return
    }
    const next = moved(event.key, at, shards.length, columnsOf(place.current!))
    if (next === null) return
    event.preventDefault()
    go(next)
    place.current?.children[next]?.scrollIntoView({ block: 'nearest' })
  }
  const choosing = chooses
    ? { role: 'listbox', tabIndex: 0, 'aria-activedescendant': `${id}-${at}`, onKeyDown }
    : {}

  return (
    <ul ref={place} className={`tiles ${size}`} aria-label={label} {...choosing}>
      {shards.map((shard) => {
        const move = moves.get(shard.shard)
        return (
          <Tile
            key={shard.shard}
            id={`${id}-${shard.shard}`}
            shard={shard.shard}
            owner={shard.owner}
            phase={shard.phase}
            from={move?.from ?? null}
            share={move === undefined ? null : Math.round(move.share * 100)}
            here={chooses && at === shard.shard}
            selected={chooses ? selected === shard.shard : null}
            choose={chooses ? (number) => { go(number); onSelect(number) } : null}
          />
        )
      })}
    </ul>
  )
}

function columnsOf(place: HTMLElement): number {
  const tiles = [...place.children] as HTMLElement[]
  const first = tiles[0]?.offsetTop
  const next = tiles.findIndex((tile) => tile.offsetTop !== first)
  return next < 0 ? tiles.length : next
}

type TileProps = {
  id: string
  shard: number
  owner: number | null
  phase: ShardDocument['phase']
  from: number | null
  share: number | null
  here: boolean
  selected: boolean | null // null: there is nothing to choose
  choose: ((shard: number) => void) | null
}

const Tile = memo(
  function Tile({ id, shard, owner, phase, from, share, here, selected, choose }: TileProps) {
    const classes = [
      'tile',
      groupColour(owner),
      share !== null && 'tile-moving',
      phase === 'unknown' && 'tile-unknown',
      choose !== null && 'tile-choice',
      here && 'tile-here',
    ]
    const style = share === null ? undefined : ({ '--share': `${share}%` } as CSSProperties)
    const choosing = choose === null ? {} : { role: 'option', 'aria-selected': selected === true, onClick: () => choose(shard) }
    return (
      <li id={id} className={classes.filter(Boolean).join(' ')} style={style} {...choosing}>
        {from !== null && <span className={`tile-from ${groupColour(from)}`} />}
        <span className="unseen">{nameOf({ shard, owner, phase }, from)}</span>
        <span className="tile-shard" aria-hidden="true">
          {shard}
        </span>
        <span className="tile-group" aria-hidden="true">
          {owner === null ? '–' : `g${owner}`}
        </span>
      </li>
    )
  },
  // `choose` is another function each time, and does the same.
  (before, after) => KEYS.every((key) => before[key] === after[key]),
)
const KEYS = ['id', 'shard', 'owner', 'phase', 'from', 'share', 'here', 'selected'] as const

export function nameOf({ shard, owner, phase }: Pick<ShardDocument, 'shard' | 'owner' | 'phase'>, from: number | null): string {
  const name = `Shard ${shard}`
  if (from !== null) return `${name}, on the move from group ${from} to group ${owner}`
  if (owner === null) return `${name}, nobody’s`
  const place = `${name}, group ${owner}`
  return phase === 'unknown' ? `${place}, not known: no leader says anything` : place
}

const LEGEND_MAX = 12

export function Legend() {
  const now = useKnown((state) => state.cluster)!
  const groups = [...shardsByGroup(now)]
  return (
    <ul className="legend" aria-label="Groups by colour">
      {groups.slice(0, LEGEND_MAX).map(([gid, shards]) => (
        <li key={gid ?? 'nobody'}>
          <GroupName gid={gid} /> <span className="soft">{plural(shards.length, 'shard')}</span>
        </li>
      ))}
      {groups.length > LEGEND_MAX && <li className="soft">and {groups.length - LEGEND_MAX} more; colours come again after ten</li>}
    </ul>
  )
}
