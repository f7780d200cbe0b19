// The one store of the page, and how components look at it.

import { useSyncExternalStore } from 'react'
import { watch } from '../api/stream'
import type { Sample } from '../model/history'
import { EMPTY, type Message, reduced, type State } from '../model/state'

let state: State = EMPTY
const readers = new Set<() => void>()

function tell(message: Message): void {
  const next = reduced(state, message)
  if (next === state) return
  state = next
  for (const read of readers) read()
}

function subscribe(read: () => void): () => void {
  readers.add(read)
  return () => readers.delete(read)
}

/** A part of the state; the component is drawn again when that part is another. */
export function useKnown<T>(part: (state: State) => T): T {
  return useSyncExternalStore(subscribe, () => part(state))
}

export function known(): State {
  return state
}

const KEPT = 'shardkv.history'

/** Begin to watch the cluster. A reload does not empty the charts. */
export function start(): void {
  try {
    const kept = sessionStorage.getItem(KEPT)
    if (kept !== null) tell({ kind: 'history', history: JSON.parse(kept) as Sample[] })
  } catch {
    sessionStorage.removeItem(KEPT) // not ours, or cut off: the charts begin anew
  }
  window.addEventListener('pagehide', () => sessionStorage.setItem(KEPT, JSON.stringify(state.history)))
  watch(tell)
}
