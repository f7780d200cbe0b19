import { count, milliseconds, rate } from '../model/format'
import { useKnown } from './store'

/** The cluster in a row of figures. */
export function Figures() {
  const now = useKnown((state) => state.cluster)!
  const moving = useKnown((state) => state.moves.active.length)
  const known = now.nodes.some((node) => node.reads_per_second !== null)
  const { rates } = now
  const figures: [string, string, string][] = [
    ['Reads', known ? rate(rates.reads_per_second) : '–', 'a second'],
    ['Writes', known ? rate(rates.writes_per_second) : '–', 'a second'],
    ['Read p99', milliseconds(rates.read_ms.p99), `p50 ${milliseconds(rates.read_ms.p50)}`],
    ['Write p99', milliseconds(rates.write_ms.p99), `p50 ${milliseconds(rates.write_ms.p50)}`],
    ['Turned away', known ? rate(rates.rejected_per_second) : '–', 'a second'],
    ['Configuration', count(now.config.number), moving > 0 ? `${moving} on the move` : `${now.config.shards} shards`],
  ]
  return (
    <dl className="figures">
      {figures.map(([name, value, more]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>
            <span className="figure">{value}</span> <span className="soft">{more}</span>
          </dd>
        </div>
      ))}
    </dl>
  )
}
