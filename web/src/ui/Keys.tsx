import { type FormEvent, useEffect, useRef, useState } from 'react'
import { Button, ListBox, ListBoxItem } from 'react-aria-components'
import * as keys from '../api/keys'
import { Refused } from '../api/http'
import { complaint, escaped, unescaped } from '../model/bytes'
import { plural } from '../model/format'
import { shardOf } from '../model/routing'
import { KeyEditor, NewKey } from './KeyEditor'
import { Field } from './fields'
import { GroupName, Mark, Panel } from './parts'
import { useKnown } from './store'

type Shown = { kind: 'nothing' } | { kind: 'new' } | { kind: 'key'; key: Uint8Array }

export function Keys() {
  const [prefix, setPrefix] = useState('')
  const [asked, setAsked] = useState<Uint8Array>(new Uint8Array())
  const [tokens, setTokens] = useState<readonly (string | null)[]>([null])
  const [page, setPage] = useState<keys.Page | null>(null)
  const [refused, setRefused] = useState<string | null>(null)
  const [round, setRound] = useState(0)
  const [shown, show] = useState<Shown>({ kind: 'nothing' })
  const token = tokens[tokens.length - 1] ?? null
  const wrong = complaint(prefix)

  useEffect(() => {
    let current = true
    keys.list(asked, token).then(
      (found) => {
        if (!current) return
        setPage(found)
        setRefused(null)
      },
      (error: unknown) => {
        if (!(error instanceof Refused)) throw error
        if (current) setRefused(error.message)
      },
    )
    return () => {
      current = false
    }
  }, [asked, token, round])

  const search = (event: FormEvent) => {
    event.preventDefault()
    if (wrong !== null) return
    setTokens([null])
    setAsked(unescaped(prefix))
    setRound(round + 1)
  }
  const again = () => setRound((before) => before + 1)

  return (
    <>
      <h1 className="unseen">Keys</h1>
      <div className="keys-view">
        <Panel
          title="Keys"
          id="keys"
          aside={
            <Button className="button" onPress={() => show({ kind: 'new' })}>
              New key…
            </Button>
          }
        >
          <form className="find" role="search" onSubmit={search}>
            <Field label="Begins with" value={prefix} onChange={setPrefix} placeholder="any key" wrong={wrong} mono />
            <Button type="submit" className="button">
              List
            </Button>
          </form>
          {refused !== null && (
            <p className="refused" role="alert">
              <Mark tone="bad" /> {refused}
            </p>
          )}
          {page !== null && <KeyList page={page} shown={shown} show={show} />}
          <div className="pager">
            <Button className="button" isDisabled={tokens.length < 2} onPress={() => setTokens(tokens.slice(0, -1))}>
              Previous
            </Button>
            <span className="soft small" role="status">
              {page === null ? 'Looking…' : page.rows.length === 0 ? 'No such key' : `Page ${tokens.length}, ${plural(page.rows.length, 'key')}`}
            </span>
            <Button className="button" isDisabled={!page?.token} onPress={() => setTokens([...tokens, page?.token ?? null])}>
              Next
            </Button>
          </div>
        </Panel>
        <Side shown={shown} show={show} again={again} />
      </div>
    </>
  )
}

type ListProps = { page: keys.Page; shown: Shown; show: (shown: Shown) => void }

function KeyList({ page, shown, show }: ListProps) {
  const shards = useKnown((state) => state.cluster?.shards ?? [])
  const rows = page.rows.map((row) => ({ id: escaped(row.key), ...row }))
  return (
    <ListBox
      className="key-list"
      aria-label="Keys found"
      selectionMode="single"
      selectedKeys={shown.kind === 'key' ? [escaped(shown.key)] : []}
      onSelectionChange={(chosen) => {
        const row = chosen === 'all' ? undefined : rows.find((each) => chosen.has(each.id))
        show(row === undefined ? { kind: 'nothing' } : { kind: 'key', key: row.key })
      }}
      items={rows}
      dependencies={[shards]}
    >
      {(row) => {
        const shard = shards.length > 0 ? shardOf(row.key, shards.length) : null
        const owner = shard === null ? null : (shards[shard]?.owner ?? null)
        return (
          <ListBoxItem
            id={row.id}
            textValue={row.id}
            className="key-row"
          >
            <span className="key-name mono">{row.id}</span>
            <span className="soft small">version {row.version}</span>
            {shard !== null && (
              <span className="small key-place">
                <GroupName gid={owner} />
              </span>
            )}
          </ListBoxItem>
        )
      }}
    </ListBox>
  )
}

const narrow = window.matchMedia('(max-width: 820px)')

/** What is beside the list, or below it where there is no room: then it is brought to where one looks. */
function Side({ shown, show, again }: { shown: Shown; show: (shown: Shown) => void; again: () => void }) {
  const place = useRef<HTMLDivElement>(null)
  useEffect(() => {
    if (shown.kind === 'nothing') return
    if (narrow.matches) place.current?.scrollIntoView({ block: 'start' })
    if (shown.kind === 'new') place.current?.querySelector('input')?.focus({ preventScroll: narrow.matches })
  }, [shown])
  return (
    <div ref={place} className={shown.kind === 'nothing' ? undefined : 'opened'}>
      {shown.kind === 'nothing' && (
        <Panel title="A key" id="key">
          <p className="soft">
            Choose a key from the list, or make a new one. What is no text is shown as bytes: <code>\x00</code> in a key, a hex dump
            for a value.
          </p>
        </Panel>
      )}
      {shown.kind === 'new' && (
        <NewKey
          made={(key) => {
            again()
            show({ kind: 'key', key })
          }}
          cancel={() => show({ kind: 'nothing' })}
        />
      )}
      {shown.kind === 'key' && (
        <KeyEditor
          key={escaped(shown.key)}
          name={shown.key}
          again={again}
          gone={() => {
            again()
            show({ kind: 'nothing' })
          }}
        />
      )}
    </div>
  )
}
