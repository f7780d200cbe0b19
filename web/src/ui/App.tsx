import { type ReactNode, useEffect } from 'react'
import { Announcer } from './Announcer'
import { Acting } from './acting'
import { Banner } from './Banner'
import { Events } from './Events'
import { Header } from './Header'
import { Keys } from './Keys'
import { Overview } from './Overview'
import { Shards } from './Shards'
import { useKnown } from './store'
import { useView, VIEWS, type ViewName } from './views'

const SHOWN: Record<ViewName, () => ReactNode> = {
  overview: Overview,
  shards: Shards,
  keys: Keys,
  events: Events,
}

export function App() {
  const view = useView()
  const there = useKnown((state) => state.cluster !== null)
  const lost = useKnown((state) => state.connection.state === 'lost')
  const View = SHOWN[view]

  useEffect(() => {
    document.title = `${VIEWS[view]} – shardkv`
  }, [view])

  return (
    <Acting>
      <a className="skip" href="#main" onClick={skip}>
        Skip to the content
      </a>
      <Header />
      <Banner />
      <main id="main" tabIndex={-1} className={lost && there ? 'stale' : undefined}>
        {there || view === 'keys' ? <View /> : <Waiting />}
      </main>
      <Announcer />
    </Acting>
  )
}

/** The fragment is the view's: so focus is moved without touching it. */
function skip(event: { preventDefault(): void }) {
  event.preventDefault()
  document.getElementById('main')?.focus()
}

function Waiting() {
  const lost = useKnown((state) => state.connection.state === 'lost')
  return (
    <div className="waiting">
      <h1>{lost ? 'The node does not answer' : 'Looking at the cluster'}</h1>
      <p className="soft">{lost ? 'It is tried again each second.' : 'One moment.'}</p>
    </div>
  )
}
