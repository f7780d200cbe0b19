// Which view is shown, by the fragment of the address.

import { useSyncExternalStore } from 'react'

export const VIEWS = { overview: 'Overview', shards: 'Shards', keys: 'Keys', events: 'Events' } as const
export type ViewName = keyof typeof VIEWS

export function viewOf(fragment: string): ViewName {
  const name = fragment.replace(/^#\/?/, '').split(/[/?]/)[0] ?? ''
  return name in VIEWS ? (name as ViewName) : 'overview'
}

export const hrefOf = (name: ViewName) => (name === 'overview' ? '#/' : `#/${name}`)

export function useView(): ViewName {
  return useSyncExternalStore(
    (read) => {
      window.addEventListener('hashchange', read)
      return () => window.removeEventListener('hashchange', read)
    },
    () => viewOf(window.location.hash),
  )
}
