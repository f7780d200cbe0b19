import { useEffect, useRef, useState } from 'react'
import { weightOf } from '../model/log'
import { useKnown } from './store'

/** Tells those who do not see the page what matters: troubles, their end, and moves that are done. */
export function Announcer() {
  const events = useKnown((state) => state.events)
  const past = useKnown((state) => state.moves.past)
  const [words, setWords] = useState('')
  const told = useRef<{ at: string; moves: number } | null>(null)

  useEffect(() => {
    const last = events[events.length - 1]
    if (told.current === null) {
      if (last !== undefined) told.current = { at: last.at, moves: past.length } // what was before is no news
      return
    }
    const { at } = told.current
    const news = events.filter((event) => event.at > at && weightOf(event) !== 'plain').map((event) => event.text)
    const done = past.slice(told.current.moves).map((move) => `Shard ${move.shard} is served by group ${move.to}`)
    told.current = { at: last?.at ?? at, moves: past.length }
    const all = [...news, ...done]
    if (all.length > 0) setWords(all.slice(-4).join('. '))
  }, [events, past])

  return (
    <div className="unseen" role="status" aria-label="News">
      {words}
    </div>
  )
}
