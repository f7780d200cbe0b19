import { ProgressBar } from 'react-aria-components'
import { bytes, duration, timeOfDay } from '../model/format'
import { DONE, type Move, sentence, STEPS } from '../model/moves'
import { GroupName } from './parts'

/** Moves under way, phase by phase. */
export function MoveList({ moves, brief = false }: { moves: readonly Move[]; brief?: boolean }) {
  return (
    <ul className="moves" aria-label="Moves under way">
      {moves.map((move) => (
        <li key={move.shard} className="move" data-step={STEPS[move.step]?.name}>
          <Title move={move} />
          <ProgressBar
            className="progress"
            aria-label={`Shard ${move.shard}`}
            value={move.share * 100}
            valueLabel={sentence(move)}
          >
            {({ percentage }) => <div className="progress-fill" style={{ width: `${percentage}%` }} />}
          </ProgressBar>
          {!brief && <Steps move={move} />}
          <p className="soft small">{brief ? `${STEPS[move.step]?.name}: ${STEPS[move.step]?.what}` : remaining(move)}</p>
        </li>
      ))}
    </ul>
  )
}

function Title({ move }: { move: Move }) {
  return (
    <p className="move-title">
      <strong>Shard {move.shard}</strong>
      <GroupName gid={move.from} />
      <span aria-hidden="true">→</span>
      <span className="unseen">to</span>
      <GroupName gid={move.to} />
    </p>
  )
}

function Steps({ move }: { move: Move }) {
  return (
    <ol className="steps">
      {STEPS.map((step, index) => (
        <li
          key={step.name}
          className={index < move.step || move.step === DONE ? 'step step-done' : index === move.step ? 'step step-now' : 'step'}
          aria-current={index === move.step ? 'step' : undefined}
          title={step.what}
        >
          {step.name}
        </li>
      ))}
    </ol>
  )
}

const capital = (text: string) => text.charAt(0).toUpperCase() + text.slice(1)

function remaining(move: Move): string {
  const what = capital(STEPS[move.step]?.what ?? '')
  if (move.step !== 1 || move.bytesCopied === 0) return `${what}.`
  const done = `about ${bytes(move.bytesCopied)} so far at ${bytes(move.bytesPerSecond)}/s`
  if (move.bytesLeft === 0 || move.bytesPerSecond === 0) return `${what}; ${done}.`
  return `${what}; ${done}, ${bytes(move.bytesLeft)} left, some ${duration(Math.ceil(move.bytesLeft / move.bytesPerSecond))}.`
}

/** Moves that ended while this page watched, the newest first. */
export function PastMoves({ moves }: { moves: readonly Move[] }) {
  return (
    <ul className="past">
      {[...moves].reverse().map((move) => (
        <li key={`${move.shard} ${move.config} ${move.endedAt}`}>
          <time className="soft" dateTime={move.endedAt ?? ''}>
            {timeOfDay(move.endedAt ?? '')}
          </time>
          <Title move={move} />
          <span className="soft small">{took(move)}</span>
        </li>
      ))}
    </ul>
  )
}

function took(move: Move): string {
  const seconds = (Date.parse(move.endedAt ?? '') - Date.parse(move.startedAt)) / 1000
  return seconds < 0.3 ? 'at once' : `in ${duration(Math.round(seconds * 10) / 10)}`
}
