// Dark or light: as the system has it, or as was chosen here.

import { useSyncExternalStore } from 'react'

export type Scheme = 'system' | 'light' | 'dark'

const KEPT = 'shardkv.scheme'
const readers = new Set<() => void>()
const system = window.matchMedia('(prefers-color-scheme: dark)')

export function chosen(): Scheme {
  const kept = localStorage.getItem(KEPT)
  return kept === 'light' || kept === 'dark' ? kept : 'system'
}

function apply(): void {
  const scheme = chosen()
  if (scheme === 'system') delete document.documentElement.dataset.scheme
  else document.documentElement.dataset.scheme = scheme
  for (const read of readers) read()
}

export function choose(scheme: Scheme): void {
  if (scheme === 'system') localStorage.removeItem(KEPT)
  else localStorage.setItem(KEPT, scheme)
  apply()
}

function subscribe(read: () => void): () => void {
  readers.add(read)
  return () => readers.delete(read)
}

export function useScheme(): Scheme {
  return useSyncExternalStore(subscribe, chosen)
}

/** Whether it is dark now. */
export function useDark(): boolean {
  return useSyncExternalStore(subscribe, () => {
    const scheme = chosen()
    return scheme === 'dark' || (scheme === 'system' && system.matches)
  })
}

export function startScheme(): void {
  system.addEventListener('change', apply)
  apply()
}
