// Figures and times as people read them.

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })

export const NONE = '–'

export function count(value: number | null | undefined): string {
  return value === null || value === undefined ? NONE : whole.format(value)
}

/** A rate: one decimal below ten. */
export function rate(value: number | null | undefined): string {
  if (value === null || value === undefined) return NONE
  return value > 0 && value < 10 ? value.toFixed(1).replace(/\.0$/, '') : whole.format(value)
}

/** Milliseconds, which are upper bounds of buckets. */
export function milliseconds(value: number | null | undefined): string {
  if (value === null || value === undefined) return NONE
  return value >= 1000 ? `${trimmed(value / 1000)} s` : `${trimmed(value)} ms`
}

function trimmed(value: number): string {
  return String(Number(value.toPrecision(3)))
}

export function bytes(value: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit += 1
  }
  return `${unit === 0 ? Math.round(value) : value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`
}

/** How long, in its two largest units. */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined) return NONE
  if (seconds < 10 && seconds % 1 !== 0) return `${seconds.toFixed(1)} s`
  const rest = Math.floor(seconds)
  const [d, h, m, s] = [Math.floor(rest / 86400), Math.floor(rest / 3600) % 24, Math.floor(rest / 60) % 60, rest % 60]
  if (d > 0) return `${d} d ${h} h`
  if (h > 0) return `${h} h ${m} min`
  return m > 0 ? `${m} min ${s} s` : `${s} s`
}

/** The time of day of an ISO date, by the reader's clock. */
export function timeOfDay(at: string): string {
  const date = new Date(at)
  return Number.isNaN(date.getTime()) ? at : date.toLocaleTimeString('en-GB')
}

export function plural(number: number, one: string, many = `${one}s`): string {
  return `${whole.format(number)} ${number === 1 ? one : many}`
}

/** `0–3, 7, 9–12` of sorted whole numbers. */
export function ranges(numbers: readonly number[]): string {
  const parts: string[] = []
  for (let at = 0; at < numbers.length; ) {
    let end = at
    while (end + 1 < numbers.length && numbers[end + 1] === (numbers[end] ?? 0) + 1) end += 1
    parts.push(end === at ? `${numbers[at]}` : `${numbers[at]}–${numbers[end]}`)
    at = end + 1
  }
  return parts.join(', ')
}

/** `a, b and c` */
export function listed(names: readonly string[]): string {
  if (names.length < 2) return names[0] ?? ''
  return `${names.slice(0, -1).join(', ')} and ${names[names.length - 1]}`
}
