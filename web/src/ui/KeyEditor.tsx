import { type FormEvent, useCallback, useEffect, useState } from 'react'
import { Button, Checkbox, Dialog, DialogTrigger, Heading, Modal, ModalOverlay, ToggleButton, ToggleButtonGroup } from 'react-aria-components'
import * as keys from '../api/keys'
import { Refused, requestName } from '../api/http'
import { complaint, escaped, hexLines, unescaped } from '../model/bytes'
import { bytesOfDraft, changed, type Draft, draftOf, type Form, inForm, tooLong } from '../model/draft'
import { bytes as size } from '../model/format'
import { shardOf } from '../model/routing'
import { Area, Field } from './fields'
import { GroupName, Mark, Panel } from './parts'
import { useKnown } from './store'

const HEX_BYTES_MAX = 4096

type Outcome = { tone: 'good' | 'bad' | 'warn'; words: string; again?: () => void } | null

/**
 * Runs a write and says what became of it. Each has a name of its own, so that one whose outcome is
 * unknown can be sent again without being done twice.
 */
function useWrite() {
  const [busy, setBusy] = useState(false)
  const [outcome, setOutcome] = useState<Outcome>(null)
  const write = useCallback((send: (name: string) => Promise<string>, name: string = requestName()) => {
    setBusy(true)
    setOutcome(null)
    send(name)
      .then(
        (words) => setOutcome({ tone: 'good', words }),
        (error: unknown) => {
          if (!(error instanceof Refused)) throw error
          const again = () => write(send, name)
          setOutcome(
            error.status === 412
              ? { tone: 'warn', words: 'Not done: somebody else was faster, the key has another version now. Read it again.' }
              : error.sure === 'unknown'
                ? { tone: 'warn', words: `It may have been done. ${error.message}`, again }
                : { tone: 'bad', words: `Not done: ${error.message}`, again },
          )
        },
      )
      .finally(() => setBusy(false))
  }, [])
  return { busy, outcome, write, say: setOutcome }
}

function OutcomeView({ outcome }: { outcome: Outcome }) {
  return (
    <div role="status" aria-label="Outcome" className="outcome">
      {outcome !== null && (
        <p className={`tone-${outcome.tone}`}>
          <Mark tone={outcome.tone} /> {outcome.words}{' '}
          {outcome.again !== undefined && (
            <Button className="button" onPress={outcome.again}>
              Send the same request again
            </Button>
          )}
        </p>
      )}
    </div>
  )
}

type EditorProps = { name: Uint8Array; again: () => void; gone: () => void }

export function KeyEditor({ name, again, gone }: EditorProps) {
  const [read, setRead] = useState<keys.Value | null | 'reading'>('reading')
  const [draft, setDraft] = useState<Draft>({ form: 'text', content: '' })
  const [only, setOnly] = useState(true)
  const { busy, outcome, write, say } = useWrite()
  const title = escaped(name)

  const load = useCallback(async () => {
    try {
      const found = await keys.get(name)
      setRead(found)
      if (found !== null) setDraft(draftOf(found.value))
    } catch (error) {
      if (!(error instanceof Refused)) throw error
      say({ tone: 'bad', words: error.message, again: () => void load() })
    }
  }, [name, say])
  useEffect(() => void load(), [load])

  if (read === 'reading' || read === null) {
    return (
      <Panel title={title} id="key" className="key-panel">
        <p className="soft" role="status">
          {read === null ? 'The key is absent: somebody has deleted it.' : 'Reading…'}
        </p>
        <OutcomeView outcome={outcome} />
      </Panel>
    )
  }

  const value = bytesOfDraft(draft)
  const wrong = typeof value === 'string' ? value : tooLong('value', value)
  const condition = only ? read.version : null
  const save = (event: FormEvent) => {
    event.preventDefault()
    if (busy || wrong !== null || typeof value === 'string') return
    write(async (request) => {
      const version = await keys.put(name, value, condition, request)
      setRead({ value, version })
      again()
      return `Written: version ${version}.`
    })
  }
  const remove = () =>
    write(async (request) => {
      await keys.remove(name, condition, request)
      gone()
      return 'Deleted.'
    })
  const append = (piece: Uint8Array) =>
    write(async (request) => {
      const version = await keys.append(name, piece, request)
      await load()
      again()
      return `Appended: version ${version}.`
    })

  return (
    <Panel
      title={title}
      id="key"
      className="key-panel"
      aside={
        <Button className="button" onPress={() => { say(null); void load() }}>
          Read again
        </Button>
      }
    >
      <Facts name={name} value={read} />
      <form onSubmit={save}>
        <ValueField draft={draft} change={setDraft} wrong={wrong} />
        <Checkbox className="check" isSelected={only} onChange={setOnly}>
          <span className="check-box" aria-hidden="true" />
          Only if it is still at version {read.version}
        </Checkbox>
        <div className="buttons">
          <Delete title={title} only={condition} remove={remove} />
          <span className="spring" />
          <Button type="submit" className="button primary" isDisabled={wrong !== null || !changed(draft, read.value)}>
            Save
          </Button>
        </div>
      </form>
      <OutcomeView outcome={outcome} />
      <Append append={append} busy={busy} />
      {draft.form === 'base64' && <Hex value={read.value} />}
    </Panel>
  )
}

function Facts({ name, value }: { name: Uint8Array; value: keys.Value }) {
  const shards = useKnown((state) => state.cluster?.shards ?? [])
  const shard = shards.length > 0 ? shardOf(name, shards.length) : null
  return (
    <dl className="facts">
      <div>
        <dt>Version</dt>
        <dd data-testid="version">{value.version}</dd>
      </div>
      <div>
        <dt>Size</dt>
        <dd>{size(value.value.length)}</dd>
      </div>
      {shard !== null && (
        <div>
          <dt>Shard</dt>
          <dd>
            {shard}, <GroupName gid={shards[shard]?.owner ?? null} />
          </dd>
        </div>
      )}
    </dl>
  )
}

type ValueProps = { draft: Draft; change: (draft: Draft) => void; wrong: string | null }

function ValueField({ draft, change, wrong }: ValueProps) {
  const asText = inForm(draft, 'text').form === 'text'
  return (
    <div className="value">
      <ToggleButtonGroup
        className="toggles"
        aria-label="The value’s form"
        selectionMode="single"
        disallowEmptySelection
        selectedKeys={[draft.form]}
        onSelectionChange={(chosen) => change(inForm(draft, [...chosen][0] as Form))}
      >
        <ToggleButton id="text" className="toggle" isDisabled={!asText}>
          Text
        </ToggleButton>
        <ToggleButton id="base64" className="toggle">
          Base64
        </ToggleButton>
      </ToggleButtonGroup>
      <Area
        label={draft.form === 'text' ? 'Value, as text' : 'Value, as base64'}
        value={draft.content}
        onChange={(content) => change({ ...draft, content })}
        wrong={wrong}
        {...(asText ? {} : { hint: 'It is no text (UTF-8), so it is edited as base64.' })}
      />
    </div>
  )
}

function Append({ append, busy }: { append: (piece: Uint8Array) => void; busy: boolean }) {
  const [text, setText] = useState('')
  const submit = (event: FormEvent) => {
    event.preventDefault()
    if (complaint(text) !== null) return
    append(unescaped(text))
    setText('')
  }
  return (
    <form className="find append" onSubmit={submit}>
      <Field label="Append" value={text} onChange={setText} wrong={complaint(text)} placeholder="text, or \x0a for a byte" mono />
      <Button type="submit" className="button" isDisabled={text === '' || busy}>
        Append
      </Button>
    </form>
  )
}

function Delete({ title, only, remove }: { title: string; only: keys.Condition; remove: () => void }) {
  return (
    <DialogTrigger>
      <Button className="button danger quiet">Delete…</Button>
      <ModalOverlay className="overlay" isDismissable>
        <Modal className="modal">
          <Dialog className="dialog" role="alertdialog">
            {({ close }) => (
              <>
                <Heading slot="title">Delete this key</Heading>
                <p className="mono break">{title}</p>
                <p>
                  {only === null ? 'Whatever its version is now, its value is gone then.' : `If it is still at version ${only}, its value is gone then.`}{' '}
                  A key made anew goes on with higher versions.
                </p>
                <div className="buttons">
                  <Button className="button" onPress={close}>
                    Cancel
                  </Button>
                  <Button className="button danger" onPress={() => { close(); remove() }}>
                    Delete it
                  </Button>
                </div>
              </>
            )}
          </Dialog>
        </Modal>
      </ModalOverlay>
    </DialogTrigger>
  )
}

function Hex({ value }: { value: Uint8Array }) {
  const lines = hexLines(value, HEX_BYTES_MAX)
  return (
    <section aria-label="The value’s bytes">
      <h3>Bytes</h3>
      <div className="scroller hex" role="region" aria-label="Hex dump" tabIndex={0}>
        <table className="mono">
          <thead className="unseen">
            <tr>
              <th scope="col">Offset</th>
              <th scope="col">Hex</th>
              <th scope="col">Text</th>
            </tr>
          </thead>
          <tbody>
            {lines.map((line) => (
              <tr key={line.offset}>
                <td className="soft">{line.offset}</td>
                <td>{line.hex}</td>
                <td>{line.text}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {value.length > HEX_BYTES_MAX && <p className="soft small">The first {size(HEX_BYTES_MAX)} of {size(value.length)}.</p>}
    </section>
  )
}

/** A key that is not there yet: written only if it is absent, unless one says otherwise. */
export function NewKey({ made, cancel }: { made: (key: Uint8Array) => void; cancel: () => void }) {
  const [name, setName] = useState('')
  const [draft, setDraft] = useState<Draft>({ form: 'text', content: '' })
  const [only, setOnly] = useState(true)
  const { busy, outcome, write } = useWrite()
  const bad = complaint(name)
  const key = bad === null ? unescaped(name) : null
  const wrongKey = bad ?? (key !== null ? tooLong('key', key) : null)
  const value = bytesOfDraft(draft)
  const wrong = typeof value === 'string' ? value : tooLong('value', value)
  const submit = (event: FormEvent) => {
    event.preventDefault()
    if (busy || key === null || key.length === 0 || wrongKey !== null || wrong !== null || typeof value === 'string') return
    write(async (request) => {
      try {
        await keys.put(key, value, only ? 'absent' : null, request)
      } catch (error) {
        if (error instanceof Refused && error.status === 412) {
          throw new Refused(409, error.name, 'the key is there already: open it from the list, or take the mark away.', 'not-done')
        }
        throw error
      }
      made(key)
      return 'Written.'
    })
  }
  return (
    <Panel title="New key" id="key" className="key-panel">
      <form onSubmit={submit}>
        <Field label="Key" value={name} onChange={setName} wrong={wrongKey} hint="A byte that is no text: \x00; a backslash: \\" mono />
        <ValueField draft={draft} change={setDraft} wrong={wrong} />
        <Checkbox className="check" isSelected={only} onChange={setOnly}>
          <span className="check-box" aria-hidden="true" />
          Only if the key is absent
        </Checkbox>
        <div className="buttons">
          <Button className="button" onPress={cancel}>
            Cancel
          </Button>
          <Button type="submit" className="button primary" isDisabled={name === '' || wrongKey !== null || wrong !== null}>
            Write
          </Button>
        </div>
      </form>
      <OutcomeView outcome={outcome} />
    </Panel>
  )
}
