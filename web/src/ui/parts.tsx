import type { ReactNode } from 'react'
import { type Badge, groupColour, groupName, type Tone } from '../model/view'

const SHAPES: Record<Tone, ReactNode> = {
  good: <circle cx="6" cy="6" r="4" />,
  idle: <path d="M2 6h6M6 3l3 3-3 3" fill="none" strokeWidth="1.6" stroke="currentColor" />,
  warn: <path d="M6 1.5 11 10.5H1z" />,
  bad: <path d="M3.5 1h5L11 3.5v5L8.5 11h-5L1 8.5v-5z" />,
}

/** A tone as a shape, not a colour alone. */
export function Mark({ tone }: { tone: Tone }) {
  return (
    <svg className={`mark tone-${tone}`} viewBox="0 0 12 12" width="12" height="12" fill="currentColor" aria-hidden="true">
      {SHAPES[tone]}
    </svg>
  )
}

export function BadgeView({ badge }: { badge: Badge }) {
  return (
    <span className={`badge tone-${badge.tone}`}>
      <Mark tone={badge.tone} />
      <span>
        {badge.text}
        {badge.more !== undefined && <span className="badge-more">{badge.more}</span>}
      </span>
    </span>
  )
}

export function Panel(props: { title: string; id: string; aside?: ReactNode; className?: string; children: ReactNode }) {
  return (
    <section className={`panel ${props.className ?? ''}`} aria-labelledby={props.id}>
      <div className="panel-head">
        <h2 id={props.id}>{props.title}</h2>
        {props.aside}
      </div>
      {props.children}
    </section>
  )
}

export function Swatch({ gid }: { gid: number | null }) {
  return <span className={`swatch ${groupColour(gid)}`} aria-hidden="true" />
}

export function GroupName({ gid }: { gid: number | null }) {
  return (
    <span className="group-name">
      <Swatch gid={gid} />
      {gid === null ? 'Nobody' : groupName(gid)}
    </span>
  )
}

/** A table that scrolls by itself where there is no room, with the keyboard too. */
export function Scroller({ label, tall = false, children }: { label: string; tall?: boolean; children: ReactNode }) {
  return (
    <div className={tall ? 'scroller scroller-tall' : 'scroller'} role="region" aria-label={label} tabIndex={0}>
      {children}
    </div>
  )
}
