import { timeOfDay } from '../model/format'
import { newVersion } from '../model/state'
import { otherPages, standing } from '../model/view'
import { Mark } from './parts'
import { useKnown } from './store'

/** What one must know: that the node is lost, or that the cluster is not well. */
export function Banner() {
  const connection = useKnown((state) => state.connection)
  const cluster = useKnown((state) => state.cluster)
  const version = useKnown(newVersion)
  if (connection.state === 'lost') return <Lost since={connection.since} why={connection.why} />
  if (cluster === null) return null
  const now = standing(cluster)
  return (
    <div className={`banner banner-${now.tone}`} role="status" aria-label="The cluster">
      <Mark tone={now.tone} />
      <p>
        {now.text}
        {version !== null && (
          <>
            . {cluster.by} runs version {version} now, and this page is of an older one: <a href="/">load it again</a>
          </>
        )}
      </p>
    </div>
  )
}

function Lost({ since, why }: { since: number; why: string }) {
  const by = useKnown((state) => state.cluster?.by ?? null)
  const addresses = useKnown((state) => state.addresses)
  const at = timeOfDay(new Date(since).toISOString())
  const others = otherPages(addresses, by, location.protocol)
  return (
    <div className="banner banner-bad" role="alert">
      <Mark tone="bad" />
      <div>
        <p>
          <strong>{by === null ? 'The node' : `${by}, the node of this page,`} does not answer</strong> since {at}. {why}{' '}
          {by !== null && 'What you see is as it was then. '}This page comes back by itself.
        </p>
        {others.length > 0 && (
          <p>
            The others may be well: a page talks only to the node it came from, so open theirs:{' '}
            {others.map(([node, href]) => (
              <a key={node} href={href}>
                {node}
              </a>
            ))}
          </p>
        )}
      </div>
    </div>
  )
}
