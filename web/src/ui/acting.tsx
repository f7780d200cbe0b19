// Operators' actions: chosen in a dialog that says what will happen, and done only from there.

import { createContext, type FormEvent, type ReactNode, useCallback, useContext, useEffect, useRef, useState } from 'react'
import { Button, Checkbox, CheckboxGroup, Dialog, Heading, Label, Modal, ModalOverlay } from 'react-aria-components'
import { type Action, act } from '../api/actions'
import { Refused } from '../api/http'
import { consequences, incomplete } from '../model/consequences'
import type { ClusterDocument } from '../model/documents'
import { groupName, nextGid, successors } from '../model/view'
import { Field, Select } from './fields'
import { Mark } from './parts'
import { useKnown } from './store'

export type Kind = Action['kind']
export type Given = { gid?: number; shard?: number }
type Ask = (kind: Kind, given?: Given) => void

const DONE_MS = 8000

const Context = createContext<Ask>(() => undefined)

/** Opens the dialog of an action. */
export function useActing(): Ask {
  return useContext(Context)
}

export function Acting({ children }: { children: ReactNode }) {
  const [asked, setAsked] = useState<{ kind: Kind; given: Given; number: number } | null>(null)
  const [done, setDone] = useState('')
  const there = useKnown((state) => state.cluster !== null)
  const ask = useCallback<Ask>((kind, given = {}) => {
    setDone('')
    setAsked((before) => ({ kind, given, number: (before?.number ?? 0) + 1 }))
  }, [])
  const close = useCallback(() => setAsked(null), [])
  useFocusBack(asked !== null)
  useEffect(() => {
    if (done === '') return
    const timer = setTimeout(() => setDone(''), DONE_MS)
    return () => clearTimeout(timer)
  }, [done])
  return (
    <Context.Provider value={ask}>
      {children}
      <div className="done" role="status" aria-label="Actions">
        {done !== '' && (
          <span className="done-words">
            <Mark tone="good" /> {done}
          </span>
        )}
      </div>
      <ModalOverlay className="overlay" isOpen={asked !== null && there} onOpenChange={(open) => !open && close()} isDismissable>
        <Modal className="modal">
          {asked !== null && there && <Form key={asked.number} kind={asked.kind} given={asked.given} close={close} say={setDone} />}
        </Modal>
      </ModalOverlay>
    </Context.Provider>
  )
}

/**
 * Where the keyboard was before the dialog, it is after it. The dialog itself would go back to the
 * item of the menu that opened it, which is gone by then.
 */
function useFocusBack(open: boolean): void {
  const last = useRef<HTMLElement | null>(null)
  useEffect(() => {
    const note = (event: FocusEvent) => {
      if (event.target instanceof HTMLElement && event.target.closest('.popover, .overlay') === null) last.current = event.target
    }
    document.addEventListener('focusin', note)
    return () => document.removeEventListener('focusin', note)
  }, [])
  useEffect(() => {
    if (open) return
    let frame = requestAnimationFrame(function look() {
      if (document.querySelector('.overlay, .popover') !== null) frame = requestAnimationFrame(look)
      else if (document.activeElement === document.body) last.current?.focus()
    })
    return () => cancelAnimationFrame(frame)
  }, [open])
}

/** What stands in the form when it is opened. */
function begun(kind: Kind, given: Given, now: ClusterDocument): Action {
  const expect = now.config.number
  const gid = given.gid ?? now.config.groups[0] ?? 0
  switch (kind) {
    case 'move': {
      const shard = given.shard ?? now.shards.find((each) => each.owner !== given.gid)?.shard ?? 0
      const owner = now.shards[shard]?.owner
      return { kind, shard, gid: given.gid ?? now.config.groups.find((each) => each !== owner) ?? gid, expect }
    }
    case 'transfer':
      return { kind, gid, node: successor(gid, now) }
    case 'leave':
      return { kind, gid, expect }
    case 'join': {
      const running = now.nodes.filter((node) => node.state === 'running').map((node) => node.node)
      const there = now.groups.find((group) => group.gid === given.gid)
      return { kind, gid: given.gid ?? nextGid(now), nodes: there?.voters ?? running.slice(0, 3), expect }
    }
  }
}

function successor(gid: number, now: ClusterDocument): string {
  const group = now.groups.find((each) => each.gid === gid)
  return group === undefined ? '' : (successors(group, now)[0] ?? '')
}

type FormProps = { kind: Kind; given: Given; close: () => void; say: (done: string) => void }

function Form({ kind, given, close, say }: FormProps) {
  const now = useKnown((state) => state.cluster)!
  const [action, setAction] = useState<Action>(() => begun(kind, given, now))
  const [busy, setBusy] = useState(false)
  const [refused, setRefused] = useState<Refused | null>(null)
  const told = consequences(action, now)
  const missing = incomplete(action, now)

  const submit = async (event: FormEvent) => {
    event.preventDefault()
    if (busy || missing !== null) return
    setBusy(true)
    setRefused(null)
    try {
      // What is confirmed is what is shown: the configuration that the sentences speak of.
      await act('expect' in action ? { ...action, expect: now.config.number } : action)
      say(`${told.title}: accepted.`)
      close()
    } catch (error) {
      if (!(error instanceof Refused)) throw error
      setRefused(error)
    } finally {
      setBusy(false)
    }
  }

  return (
    <Dialog className="dialog">
      <form onSubmit={(event) => void submit(event)}>
        <Heading slot="title">{told.title}</Heading>
        <Fields action={action} now={now} change={setAction} />
        <div className="consequences">
          <h3>What will happen</h3>
          <ul>
            {told.will.map((sentence) => (
              <li key={sentence}>{sentence}</li>
            ))}
          </ul>
          {told.warnings.map((warning) => (
            <p key={warning} className="warning">
              <Mark tone="warn" /> {warning}
            </p>
          ))}
        </div>
        {missing !== null && <p className="soft">{missing}</p>}
        {refused !== null && (
          <p className="refused" role="alert">
            <Mark tone="bad" /> {refused.sure === 'not-done' ? 'Not done: ' : 'It may have been done: '}
            {refused.message}
          </p>
        )}
        <div className="buttons">
          <Button className="button" onPress={close}>
            Cancel
          </Button>
          <Button
            type="submit"
            className={told.danger ? 'button danger' : 'button primary'}
            isDisabled={missing !== null}
          >
            {busy ? 'One moment…' : told.verb}
          </Button>
        </div>
      </form>
    </Dialog>
  )
}

type FieldsProps = { action: Action; now: ClusterDocument; change: (action: Action) => void }

function Fields({ action, now, change }: FieldsProps) {
  const stores = now.config.groups.map((gid) => ({ value: String(gid), text: groupName(gid) }))
  switch (action.kind) {
    case 'move': {
      const shards = now.shards.map(({ shard, owner }) => ({
        value: String(shard),
        text: owner === null ? `Shard ${shard}, nobody’s` : `Shard ${shard}, of group ${owner}`,
      }))
      return (
        <div className="fields">
          <Select label="Shard" value={String(action.shard)} options={shards} onChange={(v) => change({ ...action, shard: Number(v) })} />
          <Select label="To" value={String(action.gid)} options={stores} onChange={(v) => change({ ...action, gid: Number(v) })} />
        </div>
      )
    }
    case 'transfer': {
      const group = now.groups.find((each) => each.gid === action.gid)
      const nodes = group === undefined ? [] : successors(group, now).map((node) => ({ value: node, text: node }))
      const groups = now.groups.map(({ gid }) => ({ value: String(gid), text: groupName(gid) }))
      return (
        <div className="fields">
          <Select
            label="Group"
            value={String(action.gid)}
            options={groups}
            onChange={(v) => change({ ...action, gid: Number(v), node: successor(Number(v), now) })}
          />
          <Select label="To node" value={action.node} options={nodes} onChange={(node) => change({ ...action, node })} />
        </div>
      )
    }
    case 'leave':
      return (
        <div className="fields">
          <Select label="Group" value={String(action.gid)} options={stores} onChange={(v) => change({ ...action, gid: Number(v) })} />
        </div>
      )
    case 'join':
      return (
        <div className="fields">
          <Field
            label="Group"
            type="number"
            value={String(action.gid)}
            min={1}
            onChange={(v) => change({ ...action, gid: Math.max(1, Math.trunc(Number(v)) || 1) })}
          />
          <CheckboxGroup className="checks" value={action.nodes} onChange={(nodes) => change({ ...action, nodes })}>
            <Label>On the nodes, the first is where it is born</Label>
            <div className="checks-row">
              {now.nodes.map((node) => (
                <Checkbox key={node.node} value={node.node} className="check">
                  <span className="check-box" aria-hidden="true" />
                  {node.node}
                  {node.state !== 'running' && ` (${node.state})`}
                </Checkbox>
              ))}
            </div>
          </CheckboxGroup>
        </div>
      )
  }
}
