import { useEffect, useId, useMemo, useRef, useState } from 'react'
import uPlot from 'uplot'
import { milliseconds, rate } from '../model/format'
import { columns, extent, type Sample, WINDOW_SECONDS } from '../model/history'
import { Panel } from './parts'
import { useDark } from './scheme'
import { useKnown } from './store'

type Series = { field: keyof Sample; name: string; colour: string; dash?: number[]; fill?: boolean }

const THROUGHPUT: readonly Series[] = [
  { field: 'reads', name: 'Reads', colour: '--series-a', fill: true },
  { field: 'writes', name: 'Writes', colour: '--series-b', fill: true },
  { field: 'rejected', name: 'Turned away', colour: '--bad', dash: [2, 3] },
]
const LATENCY: readonly Series[] = [
  { field: 'readTail', name: 'Read p99', colour: '--series-a' },
  { field: 'readMedian', name: 'Read p50', colour: '--series-a', dash: [4, 3] },
  { field: 'writeTail', name: 'Write p99', colour: '--series-b' },
  { field: 'writeMedian', name: 'Write p50', colour: '--series-b', dash: [4, 3] },
]

export function Charts() {
  return (
    <>
      <Panel title="Throughput" id="throughput" aside={<span className="soft small">operations a second</span>}>
        <Chart what="Operations a second" series={THROUGHPUT} format={rate} least={10} />
      </Panel>
      <Panel title="Latency" id="latency" aside={<span className="soft small">upper bounds, all nodes together</span>}>
        <Chart what="Latency" series={LATENCY} format={milliseconds} least={1} />
      </Panel>
    </>
  )
}

const HEIGHT = 148

type ChartProps = { what: string; series: readonly Series[]; format: (value: number | null) => string; least: number }

function Chart({ what, series, format, least }: ChartProps) {
  const history = useKnown((state) => state.history)
  const dark = useDark()
  const place = useRef<HTMLDivElement>(null)
  const chart = useRef<uPlot | null>(null)
  const [pointed, setPointed] = useState<number | null>(null)
  const id = useId()
  const data = useMemo(
    () => columns(history, series.map((each) => each.field)) as unknown as uPlot.AlignedData,
    [history, series],
  )
  const newest = useRef(data)
  newest.current = data

  useEffect(() => {
    const box = place.current!
    const made = new uPlot(options(box, series, format, least, setPointed), newest.current, box)
    chart.current = made
    const watcher = new ResizeObserver(() => made.setSize({ width: box.clientWidth, height: HEIGHT }))
    watcher.observe(box)
    return () => {
      watcher.disconnect()
      made.destroy()
      chart.current = null
    }
  }, [series, format, least, dark])

  useEffect(() => {
    chart.current?.setData(data)
  }, [data])

  const shown = pointed !== null ? history[pointed] : history[history.length - 1]
  const summary = series
    .map(({ field, name }) => {
      const { most, last } = extent(history, field)
      return `${name}: ${format(last)} now, ${format(most)} at most`
    })
    .join('; ')
  return (
    <figure className="chart">
      <div ref={place} className="chart-place" role="img" aria-label={`${what} over the last minutes`} aria-describedby={id} />
      <figcaption>
        <ul className="keys-of-chart" aria-hidden="true">
          {series.map((each) => (
            <li key={each.name}>
              <svg viewBox="0 0 18 6" width="18" height="6">
                <line x1="1" y1="3" x2="17" y2="3" strokeWidth="2" stroke={`var(${each.colour})`} strokeDasharray={each.dash?.join(' ')} />
              </svg>
              {each.name} <b>{format(shown?.[each.field] ?? null)}</b>
            </li>
          ))}
        </ul>
        <span id={id} className="unseen">
          {summary}
        </span>
      </figcaption>
    </figure>
  )
}

/** The colour that a variable stands for now, as a canvas takes it. */
function colourOf(place: HTMLElement, variable: string): string {
  const probe = place.appendChild(document.createElement('span'))
  probe.style.color = `var(${variable})`
  const colour = getComputedStyle(probe).color
  probe.remove()
  return colour
}

function options(
  place: HTMLElement,
  series: readonly Series[],
  format: (value: number | null) => string,
  least: number,
  point: (index: number | null) => void,
): uPlot.Options {
  const ink = colourOf(place, '--soft')
  const line = colourOf(place, '--line')
  const font = '11px system-ui, sans-serif'
  return {
    width: place.clientWidth,
    height: HEIGHT,
    padding: [8, 14, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
    scales: {
      x: { time: true, range: (_, first, last) => span(first, last) },
      y: { range: (_, __, max) => [0, Math.max(least, (max ?? 0) * 1.1)] },
    },
    axes: [
      { stroke: ink, font, grid: { show: false }, ticks: { show: false }, size: 22, space: 64, values: (_, at, __, ___, step) => at.map((second) => clock(second, step)) },
      { stroke: ink, font, grid: { stroke: line, width: 1 }, ticks: { show: false }, size: 52, space: 32, values: (_, at) => at.map(format) },
    ],
    series: [
      {},
      ...series.map((each): uPlot.Series => {
        const stroke = colourOf(place, each.colour)
        return {
          label: each.name,
          stroke,
          width: 1.75,
          points: { show: false },
          ...(each.dash === undefined ? {} : { dash: each.dash }),
          ...(each.fill ? { fill: colourOf(place, `${each.colour}-fill`) } : {}),
        }
      }),
    ],
    hooks: { setCursor: [(chart) => point(chart.cursor.idx ?? null)] },
  }
}

/** At least a minute is drawn, at most the whole window. */
function span(first: number | null, last: number | null): [number, number] {
  const end = last ?? Date.now() / 1000
  return [end - Math.min(WINDOW_SECONDS, Math.max(60, end - (first ?? end))), end]
}

/** With seconds where the marks are less than a minute apart. */
function clock(at: number, step: number): string {
  const seconds = step < 60 ? ({ second: '2-digit' } as const) : {}
  return new Date(at * 1000).toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit', ...seconds })
}
