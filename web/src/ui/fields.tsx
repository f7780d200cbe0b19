import { type ReactNode, useId } from 'react'

type SelectProps = {
  label: string
  value: string
  options: readonly { value: string; text: string }[]
  onChange: (value: string) => void
}

/** The browser's own list: it works best under a thumb, a keyboard and a screen reader. */
export function Select({ label, value, options, onChange }: SelectProps) {
  const id = useId()
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <select id={id} value={value} onChange={(event) => onChange(event.target.value)}>
        {options.map((option) => (
          <option key={option.value} value={option.value}>
            {option.text}
          </option>
        ))}
      </select>
    </div>
  )
}

type Noted = { label: string; hint?: string | undefined; wrong?: string | null | undefined }
type Named = { id: string; 'aria-invalid': true | undefined; 'aria-describedby': string | undefined }

/** A field with its label, and below it what is wrong, or else the hint. */
function Labelled({ label, hint, wrong, children }: Noted & { children: (named: Named) => ReactNode }) {
  const id = useId()
  const note = wrong ?? hint
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      {children({
        id,
        'aria-invalid': wrong ? true : undefined,
        'aria-describedby': note === undefined ? undefined : `${id}-note`,
      })}
      {note !== undefined && (
        <p id={`${id}-note`} className={wrong ? 'wrong' : 'soft small'}>
          {note}
        </p>
      )}
    </div>
  )
}

type FieldProps = Noted & {
  value: string
  onChange: (value: string) => void
  type?: 'text' | 'number'
  min?: number
  placeholder?: string
  mono?: boolean
}

export function Field({ value, onChange, type = 'text', min, placeholder, mono, ...noted }: FieldProps) {
  return (
    <Labelled {...noted}>
      {(named) => (
        <input
          {...named}
          className={mono ? 'mono' : undefined}
          type={type}
          min={min}
          value={value}
          placeholder={placeholder}
          autoComplete="off"
          autoCapitalize="off"
          spellCheck={false}
          onChange={(event) => onChange(event.target.value)}
        />
      )}
    </Labelled>
  )
}

type AreaProps = Noted & { value: string; onChange: (value: string) => void; rows?: number }

export function Area({ value, onChange, rows = 8, ...noted }: AreaProps) {
  return (
    <Labelled {...noted}>
      {(named) => (
        <textarea
          {...named}
          className="mono"
          rows={rows}
          value={value}
          spellCheck={false}
          onChange={(event) => onChange(event.target.value)}
        />
      )}
    </Labelled>
  )
}
