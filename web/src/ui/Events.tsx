import { useState } from 'react'
import { Input, Label, SearchField, ToggleButton, ToggleButtonGroup } from 'react-aria-components'
import type { EventDocument } from '../model/documents'
import { plural, timeOfDay } from '../model/format'
import { FILTERS, filtered, identity, KINDS, weightOf } from '../model/log'
import { Mark, Panel } from './parts'
import { useKnown } from './store'

export function Events() {
  const events = useKnown((state) => state.events)
  const [filters, setFilters] = useState<ReadonlySet<string>>(new Set())
  const [words, setWords] = useState('')
  const shown = filtered(events, filters, words)
  return (
    <>
      <h1 className="unseen">Events</h1>
      <Panel title="Events" id="log" aside={<span className="soft small">{plural(shown.length, 'event')}, newest first</span>}>
        <div className="filters">
          <ToggleButtonGroup
            className="toggles"
            aria-label="Kinds"
            selectionMode="multiple"
            selectedKeys={filters}
            onSelectionChange={(keys) => setFilters(new Set([...keys].map(String)))}
          >
            {Object.keys(FILTERS).map((name) => (
              <ToggleButton key={name} id={name} className="toggle">
                {name}
              </ToggleButton>
            ))}
          </ToggleButtonGroup>
          <SearchField className="search" value={words} onChange={setWords}>
            <Label className="unseen">Words in the event</Label>
            <Input placeholder="Words, such as n2 or group 1" />
          </SearchField>
        </div>
        {shown.length === 0 ? <p className="soft">No such event yet.</p> : <EventList events={shown} />}
      </Panel>
    </>
  )
}

export function EventList({ events }: { events: readonly EventDocument[] }) {
  return (
    <ol className="events">
      {events.map((event) => (
        <li key={identity(event)} className={`event event-${weightOf(event)}`}>
          <time dateTime={event.at} title={event.at}>
            {timeOfDay(event.at)}
          </time>
          <span className="event-kind">{KINDS[event.kind] ?? event.kind}</span>
          <span className="event-text">
            {weightOf(event) === 'bad' && <Mark tone="bad" />}
            {event.text}
          </span>
        </li>
      ))}
    </ol>
  )
}
