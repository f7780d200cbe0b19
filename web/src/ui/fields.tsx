import { useId } from 'react'

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

type FieldProps = {
  label: string
  value: string
  onChange: (value: string) => void
  type?: 'text' | 'number'
  min?: number
  placeholder?: string
  hint?: string
  wrong?: string | null
  mono?: boolean
}

export function Field({ label, value, onChange, type = 'text', min, placeholder, hint, wrong, mono }: FieldProps) {
  const id = useId()
  const note = wrong ?? hint
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <input
        id={id}
        className={mono ? 'mono' : undefined}
        type={type}
        min={min}
        value={value}
        placeholder={placeholder}
        autoComplete="off"
        autoCapitalize="off"
        spellCheck={false}
        aria-invalid={wrong !== null && wrong !== undefined ? true : undefined}
        aria-describedby={note !== undefined ? `${id}-note` : undefined}
        onChange={(event) => onChange(event.target.value)}
      />
      {note !== undefined && (
        <p id={`${id}-note`} className={wrong ? 'wrong' : 'soft small'}>
          {note}
        </p>
      )}
    </div>
  )
}

type AreaProps = { label: string; value: string; onChange: (value: string) => void; rows?: number; hint?: string; wrong?: string | null }

export function Area({ label, value, onChange, rows = 8, hint, wrong }: AreaProps) {
  const id = useId()
  const note = wrong ?? hint
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <textarea
        id={id}
        className="mono"
        rows={rows}
        value={value}
        spellCheck={false}
        aria-invalid={wrong !== null && wrong !== undefined ? true : undefined}
        aria-describedby={note !== undefined ? `${id}-note` : undefined}
        onChange={(event) => onChange(event.target.value)}
      />
      {note !== undefined && (
        <p id={`${id}-note`} className={wrong ? 'wrong' : 'soft small'}>
          {note}
        </p>
      )}
    </div>
  )
}
