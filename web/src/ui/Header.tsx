import { Button, Menu, MenuItem, MenuTrigger, Popover } from 'react-aria-components'
import { useActing } from './acting'
import { choose, type Scheme, useScheme } from './scheme'
import { useKnown } from './store'
import { hrefOf, useView, VIEWS, type ViewName } from './views'

export function Header() {
  const view = useView()
  return (
    <header className="top">
      <a className="brand" href="#/" aria-label="shardkv, overview">
        <svg viewBox="0 0 22 22" width="22" height="22" aria-hidden="true">
          <rect x="1" y="1" width="9" height="9" rx="2" className="brand-a" />
          <rect x="12" y="1" width="9" height="9" rx="2" className="brand-b" />
          <rect x="1" y="12" width="9" height="9" rx="2" className="brand-c" />
          <rect x="12" y="12" width="9" height="9" rx="2" className="brand-a" />
        </svg>
        <span>shardkv</span>
      </a>
      <nav aria-label="Views">
        {(Object.keys(VIEWS) as ViewName[]).map((name) => (
          <a key={name} href={hrefOf(name)} aria-current={view === name ? 'page' : undefined}>
            {VIEWS[name]}
          </a>
        ))}
      </nav>
      <div className="top-end">
        <Link />
        <ActionsMenu />
        <SchemeMenu />
      </div>
    </header>
  )
}

/** Whether the page is live, and by whom it sees the cluster. */
function Link() {
  const connection = useKnown((state) => state.connection)
  const by = useKnown((state) => state.cluster?.by ?? null)
  const words = {
    connecting: 'connecting',
    live: by === null ? 'live' : `live, as ${by} sees it`,
    resting: 'resting',
    lost: `${by ?? 'the node'} is lost`,
  }[connection.state]
  return (
    <span className={`link link-${connection.state}`} role="status">
      <span className="dot" aria-hidden="true" />
      <span className="link-words">{words}</span>
    </span>
  )
}

function ActionsMenu() {
  const act = useActing()
  const there = useKnown((state) => state.cluster !== null)
  const live = useKnown((state) => state.connection.state === 'live')
  return (
    <MenuTrigger>
      <Button className="button" isDisabled={!there || !live}>
        Actions
      </Button>
      <Popover className="popover" placement="bottom end">
        <Menu className="menu" aria-label="Operator’s actions" onAction={(key) => act(String(key) as 'move')}>
          <MenuItem id="move">Move a shard…</MenuItem>
          <MenuItem id="transfer">Transfer leadership…</MenuItem>
          <MenuItem id="join">Let a group join…</MenuItem>
          <MenuItem id="leave">Let a group leave…</MenuItem>
        </Menu>
      </Popover>
    </MenuTrigger>
  )
}

const SCHEMES: Record<Scheme, string> = { system: 'As the system', light: 'Light', dark: 'Dark' }

function SchemeMenu() {
  const scheme = useScheme()
  return (
    <MenuTrigger>
      <Button className="button icon" aria-label={`Colours: ${SCHEMES[scheme].toLowerCase()}`}>
        <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
          <circle cx="8" cy="8" r="6.25" fill="none" stroke="currentColor" strokeWidth="1.5" />
          <path d="M8 1.75a6.25 6.25 0 0 1 0 12.5z" fill="currentColor" />
        </svg>
      </Button>
      <Popover className="popover" placement="bottom end">
        <Menu
          className="menu"
          aria-label="Colours"
          selectionMode="single"
          selectedKeys={[scheme]}
          onAction={(key) => choose(key as Scheme)}
        >
          {(Object.keys(SCHEMES) as Scheme[]).map((name) => (
            <MenuItem key={name} id={name}>
              {SCHEMES[name]}
            </MenuItem>
          ))}
        </Menu>
      </Popover>
    </MenuTrigger>
  )
}
