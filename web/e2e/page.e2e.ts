// The page of real nodes, in a real browser.

import type { Browser } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { launched, opened, PATIENCE_MS, shot, sound, type Watched } from './browser'
import { Cluster, type NodeName, NODES } from './cluster'

let cluster: Cluster
let browser: Browser
let page: Watched

beforeAll(async () => {
  ;[cluster, browser] = await Promise.all([Cluster.founded(), launched()])
  page = await opened(browser, cluster.page('n1'))
})

afterAll(async () => {
  await Promise.all([browser?.close(), cluster?.removed()])
})

const OCTETS = { 'content-type': 'application/octet-stream' }

async function put(key: string, value: Uint8Array | string): Promise<void> {
  const answer = await fetch(`${cluster.page('n1')}kv/${encodeURIComponent(key)}`, { method: 'PUT', headers: OCTETS, body: value as string })
  expect(answer.status).toBe(204)
}

async function seen(text: string | RegExp, on = page): Promise<void> {
  await on.getByText(text).first().waitFor()
}

const view = (name: string, on = page) => on.getByRole('navigation').getByRole('link', { name }).click()

type Looked = { groups: { gid: number; leader: string }[]; shards: { owner: number; phase: string }[] }

/** Waits for a look at the cluster that is as it should be. */
async function until(told: (now: Looked) => boolean) {
  const url = `${cluster.page('n3')}cluster`
  await expect.poll(async () => told(await (await fetch(url)).json()), { timeout: PATIENCE_MS }).toBe(true)
}

describe('the overview', () => {
  it('is painted within a second', async () => {
    // The best of a few: the machine may be busy with others.
    const paints: number[] = []
    for (let round = 0; round < 4; round++) {
      await page.reload()
      await page.getByRole('heading', { name: 'Nodes' }).waitFor()
      paints.push(await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? Infinity))
    }
    expect(Math.min(...paints)).toBeLessThan(1000)
  })

  it('shows nodes, groups, leaders and shards', async () => {
    await seen('3 nodes and 2 groups are well')
    await seen('live, as n1 sees it')
    const groups = page.getByRole('table').nth(1)
    expect(await groups.getByRole('rowheader').allInnerTexts()).toEqual([
      expect.stringMatching(/^Controller/), expect.stringMatching(/^Group 1/), expect.stringMatching(/^Group 2/),
    ])
    expect(await groups.getByText('leader', { exact: true }).count()).toBe(3)
    expect(await page.getByRole('list', { name: 'Shards by group' }).getByRole('listitem').count()).toBe(16)
    await seen(/leads group 1 in term/)
    await shot(page, 'overview-light')
    await sound(page)
  })

  it('is dark where the reader wants it so, by the system or by hand', async () => {
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor)
    const light = await ground()
    await page.emulateMedia({ colorScheme: 'dark' })
    const dark = await ground()
    expect(dark).not.toBe(light)
    await shot(page, 'overview-dark')
    await sound(page)
    await page.getByRole('button', { name: /^Colours/ }).click()
    await page.getByRole('menuitemradio', { name: 'Light' }).click()
    await expect.poll(ground).toBe(light)
    await page.reload()
    await seen('3 nodes and 2 groups are well')
    expect(await ground()).toBe(light)
    await page.getByRole('button', { name: /^Colours/ }).click()
    await page.getByRole('menuitemradio', { name: 'As the system' }).click()
    await page.emulateMedia({ colorScheme: 'light' })
  })
})

describe('keys', () => {
  it('are written, read, appended to, and deleted', async () => {
    await view('Keys')
    await page.getByRole('button', { name: 'New key…' }).click()
    await page.getByLabel('Key', { exact: true }).fill('greeting')
    await page.getByLabel('Value, as text').fill('hello')
    await page.getByRole('button', { name: 'Write' }).click()
    await page.getByRole('heading', { name: 'greeting' }).waitFor()
    await expect.poll(() => page.getByTestId('version').innerText()).toBe('1')
    await page.getByLabel('Append').fill(' world\\x21')
    await page.getByRole('button', { name: 'Append' }).click()
    await seen('Appended: version 2.')
    await expect.poll(() => page.getByLabel('Value, as text').inputValue()).toBe('hello world!')
    await page.getByLabel('Value, as text').fill('bye')
    await page.getByRole('button', { name: 'Save' }).click()
    await seen('Written: version 3.')
    expect(await (await fetch(`${cluster.page('n2')}kv/greeting`)).json()).toEqual({ key: 'greeting', value: 'bye' })
    await sound(page)
    await shot(page, 'keys-light')
    await page.getByRole('button', { name: 'Delete…' }).click()
    await sound(page)
    await page.getByRole('alertdialog').getByRole('button', { name: 'Delete it' }).click()
    await page.getByRole('option', { name: /greeting/ }).waitFor({ state: 'detached' })
    expect((await fetch(`${cluster.page('n3')}kv/greeting`)).status).toBe(404)
  })

  it('are not overwritten when somebody else was faster', async () => {
    await put('shared', 'one')
    await page.getByRole('button', { name: 'List' }).click()
    await page.getByRole('option', { name: /shared/ }).click()
    await page.getByLabel('Value, as text').fill('mine')
    await put('shared', 'theirs')
    await page.getByRole('button', { name: 'Save' }).click()
    await seen(/somebody else was faster/)
    expect(await (await fetch(`${cluster.page('n1')}kv/shared`)).json()).toMatchObject({ value: 'theirs' })
    await page.getByRole('button', { name: 'Read again' }).click()
    await expect.poll(() => page.getByLabel('Value, as text').inputValue()).toBe('theirs')
  })

  it('and values that are no text are shown as bytes, and stay what they are', async () => {
    const raw = Uint8Array.from([0, 255, 13, 10, 128])
    const answer = await fetch(`${cluster.page('n1')}kv/bin%00%ff`, { method: 'PUT', headers: OCTETS, body: raw })
    expect(answer.status).toBe(204)
    await page.getByLabel('Begins with').fill('bin\\x00')
    await page.getByRole('button', { name: 'List' }).click()
    await page.getByRole('option', { name: /^bin\\x00\\xff/ }).click()
    await expect.poll(() => page.getByLabel('Value, as base64').inputValue()).toBe('AP8NCoA=')
    await seen('00 ff 0d 0a 80')
    await sound(page)
    await shot(page, 'keys-binary')
    await page.getByLabel('Value, as base64').fill('AP8NCoAB')
    await page.getByRole('button', { name: 'Save' }).click()
    await seen('Written: version 2.')
    const back = await fetch(`${cluster.page('n2')}kv/bin%00%ff`, { headers: { accept: 'application/octet-stream' } })
    expect([...new Uint8Array(await back.arrayBuffer())]).toEqual([0, 255, 13, 10, 128, 1])
  })

  it('come in pages', async () => {
    await Promise.all(Array.from({ length: 60 }, (_, n) => put(`page/${String(n).padStart(2, '0')}`, `${n}`)))
    await page.getByLabel('Begins with').fill('page/')
    await page.getByRole('button', { name: 'List' }).click()
    await seen('Page 1, 50 keys')
    await page.getByRole('button', { name: 'Next' }).click()
    await seen('Page 2, 10 keys')
    await page.getByRole('option', { name: /^page\/59/ }).waitFor()
    await page.getByRole('button', { name: 'Previous' }).click()
    await seen('Page 1, 50 keys')
  })
})

describe('an operator', () => {
  it('moves a shard, and watches it through its phases', async () => {
    // All in one shard, by their tag: enough that the copy is seen.
    for (let n = 0; n < 40; n++) await put(`{weight}/${n}`, new Uint8Array(100_000).fill(n))
    await view('Keys')
    await page.getByLabel('Begins with').fill('{weight}/')
    await page.getByRole('button', { name: 'List' }).click()
    await page.getByRole('option', { name: /^\{weight\}\/0\b/ }).click()
    const placed = await page.locator('.facts').innerText()
    const [, shard, from] = /Shard\s+(\d+),\s+Group (\d)/.exec(placed)!
    const to = 3 - Number(from)
    await view('Shards')
    // By the keyboard: to the shard, and from there to its button.
    await page.getByRole('listbox').focus()
    for (let steps = 0; steps < Number(shard); steps++) await page.keyboard.press('ArrowRight')
    await page.keyboard.press('Enter')
    await page.getByRole('option', { name: new RegExp(`^Shard ${shard},`), selected: true }).waitFor()
    await page.getByRole('button', { name: `Move shard ${shard}…` }).click()
    const dialog = page.getByRole('dialog')
    await dialog.getByText(`Group ${from} serves it now`).waitFor()
    await dialog.getByText('Configuration 1 becomes 2.').waitFor()
    await sound(page)
    await shot(page, 'move-dialog')
    await page.evaluate(() => {
      const seen: string[] = ((window as unknown as { steps: string[] }).steps = [])
      new MutationObserver(() => {
        const step = document.querySelector<HTMLElement>('.move')?.dataset.step
        if (step !== undefined && seen.at(-1) !== step) seen.push(step)
      }).observe(document.body, { subtree: true, childList: true, attributes: true })
    })
    await dialog.getByRole('button', { name: `Move shard ${shard}` }).click()
    await page.getByRole('progressbar', { name: `Shard ${shard}` }).waitFor()
    await sound(page)
    await shot(page, 'move-under-way')
    await page.locator('.past').getByText(`Shard ${shard}`).waitFor()
    const steps = await page.evaluate(() => (window as unknown as { steps: string[] }).steps)
    expect(steps).toContain('Rows')
    const order = ['Assigned', 'Rows', 'Changes', 'Frozen', 'Served']
    expect(steps).toEqual(order.filter((step) => steps.includes(step)))
    await page.getByRole('option', { name: `Shard ${shard}, group ${to}` }).waitFor()
    await view('Events')
    await seen(`shard ${shard} is serving at group ${to}`)
    await sound(page)
  })

  it('transfers the leadership of a group, with the keyboard alone', async () => {
    await view('Overview')
    const now = await (await fetch(`${cluster.page('n1')}cluster`)).json()
    const leader: string = now.groups.find((group: { gid: number }) => group.gid === 1).leader
    const next = NODES.find((name) => name !== leader)!
    await page.reload()
    await seen('live, as n1 sees it')
    await page.keyboard.press('Tab')
    expect(await page.evaluate(() => document.activeElement?.textContent)).toBe('Skip to the content')
    const focused = () => page.evaluate(() => document.activeElement?.getAttribute('aria-label') ?? document.activeElement?.textContent)
    for (let tabs = 0; tabs < 30 && (await focused()) !== 'Actions on Group 1'; tabs++) await page.keyboard.press('Tab')
    expect(await focused()).toBe('Actions on Group 1')
    await page.keyboard.press('Enter')
    await page.getByRole('menu').waitFor()
    await expect.poll(focused).toBe('Transfer leadership…')
    await page.keyboard.press('Enter')
    const dialog = page.getByRole('dialog')
    await dialog.waitFor()
    await dialog.getByLabel('To node').selectOption(next)
    await dialog.getByText(`${leader} leads group 1 now; it hands over to ${next}.`).waitFor()
    for (let tabs = 0; tabs < 8 && (await focused()) !== `Let ${next} lead`; tabs++) await page.keyboard.press('Tab')
    await page.keyboard.press('Enter')
    await dialog.waitFor({ state: 'detached' })
    await until(({ groups }) => groups.some((group) => group.gid === 1 && group.leader === next))
    await seen(new RegExp(`${next} leads group 1 in term`))
    await expect.poll(focused).toBe('Actions on Group 1')
  })

  it('lets a group leave, and join again', async () => {
    const owned = (gid: number) => ({ shards }: Looked) => shards.filter(({ owner, phase }) => owner === gid && phase === 'serving').length
    await page.getByRole('button', { name: 'Actions on Group 2' }).click()
    await page.getByRole('menuitem', { name: 'Let it leave…' }).click()
    const dialog = page.getByRole('dialog')
    await dialog.getByText(/go to group 1/).waitFor()
    await dialog.getByRole('button', { name: 'Let group 2 leave' }).click()
    await dialog.waitFor({ state: 'detached' })
    await until((now) => owned(1)(now) === 16)
    await page.getByRole('row', { name: /^Group 2 .* 0 / }).waitFor()
    await page.getByRole('button', { name: 'Actions on Group 2' }).click()
    await page.getByRole('menuitem', { name: 'Let it join again…' }).click()
    await dialog.getByText('Group 2 is there already, and takes part again.').waitFor()
    await dialog.getByRole('button', { name: 'Let group 2 join' }).click()
    await dialog.waitFor({ state: 'detached' })
    await until((now) => owned(1)(now) === 8 && owned(2)(now) === 8)
  })

  it('is told why an action is refused', async () => {
    await page.getByRole('button', { name: 'Actions', exact: true }).click()
    await page.getByRole('menuitem', { name: 'Let a group leave…' }).click()
    await page.route('**/cluster/leave', (route) =>
      route.fulfill({
        status: 409,
        contentType: 'application/problem+json',
        body: JSON.stringify({ type: '/problems/configuration-changed', title: 'Conflict', status: 409, detail: 'it is 7 now' }),
      }),
    )
    await page.getByRole('button', { name: 'Let group 1 leave' }).click()
    await page.getByRole('alert').getByText('Not done: it is 7 now').waitFor()
    await sound(page)
    await page.keyboard.press('Escape')
    await page.getByRole('dialog').waitFor({ state: 'detached' })
    await page.unroute('**/cluster/leave')
  })
})

describe('on a phone', () => {
  it.each(['light', 'dark'] as const)('everything is there, %s', async (colorScheme) => {
    const phone = await opened(browser, cluster.page('n2'), {
      viewport: { width: 360, height: 740 }, colorScheme, hasTouch: true, isMobile: true, reducedMotion: 'reduce',
    })
    await seen('live, as n2 sees it', phone)
    for (const name of ['Overview', 'Shards', 'Keys', 'Events']) {
      await view(name, phone)
      await phone.getByRole('heading', { name, level: 1 }).waitFor({ state: 'attached' })
      await sound(phone)
      await shot(phone, `phone-${name.toLowerCase()}-${colorScheme}`)
    }
    await view('Keys', phone)
    await phone.getByRole('option', { name: /^page\/03/ }).tap()
    await expect.poll(() => phone.getByLabel('Value, as text').inputValue()).toBe('3')
    expect(await phone.getByRole('heading', { name: 'page/03' }).evaluate((title) => title.getBoundingClientRect().top)).toBeLessThan(400)
    await sound(phone)
    await shot(phone, `phone-key-${colorScheme}`)
    await phone.getByRole('button', { name: 'Actions', exact: true }).tap()
    await phone.getByRole('menuitem', { name: 'Let a group join…' }).tap()
    await phone.getByRole('dialog').getByText('Group 3 is born on n1; n2 and n3 follow as voters.').waitFor()
    await sound(phone)
    await shot(phone, `phone-join-${colorScheme}`)
    expect(phone.complaints).toEqual([])
    await phone.context().close()
  })

  it('and on a tablet', async () => {
    const tablet = await opened(browser, cluster.page('n3'), { viewport: { width: 768, height: 1024 } })
    await seen('live, as n3 sees it', tablet)
    await sound(tablet)
    await shot(tablet, 'tablet-overview')
    await tablet.context().close()
  })
})

describe('when nodes end', () => {
  it('says which one, and goes on; and that it is back', async () => {
    await view('Overview')
    cluster.kill('n3')
    await seen(/n3 does not answer/)
    await page.getByRole('row', { name: /^n3 silent last seen/ }).waitFor()
    await until2Of3()
    await sound(page)
    await shot(page, 'node-silent')
    cluster.restart('n3')
    await seen(/n3 (was started again|answers again)/)
    await seen('3 nodes and 2 groups are well')
  })

  /** The others have taken over what it led, as the page itself shows. */
  async function until2Of3(): Promise<void> {
    await page.getByText('2 of 3').first().waitFor()
    await page.locator('.banner').getByText('n3 does not answer', { exact: true }).waitFor()
  }

  it('says that its own node has ended, where else to look, and comes back by itself', async () => {
    const own: NodeName = 'n1'
    cluster.kill(own)
    const alert = page.getByRole('alert')
    await alert.getByText('n1, the node of this page, does not answer').waitFor()
    expect(await alert.getByRole('link').evaluateAll((links) => links.map((link) => (link as HTMLAnchorElement).href))).toEqual([
      cluster.page('n2'), cluster.page('n3'),
    ])
    expect(await page.getByRole('button', { name: 'Actions', exact: true }).isDisabled()).toBe(true)
    await sound(page)
    await shot(page, 'own-node-lost')
    cluster.restart(own)
    await alert.waitFor({ state: 'detached' })
    await seen('3 nodes and 2 groups are well')
    await seen('live, as n1 sees it')
  })

  it('notices a node that stands still, which keeps its connections open', async () => {
    cluster.signal('n1', 'SIGSTOP')
    const alert = page.getByRole('alert')
    await alert.getByText(/n1, the node of this page, does not answer/).waitFor()
    cluster.signal('n1', 'SIGCONT')
    await alert.waitFor({ state: 'detached' })
    await seen('3 nodes and 2 groups are well')
  })

  it('comes back when all nodes were down', async () => {
    await put('shared', 'theirs')
    await cluster.stop()
    await page.getByRole('alert').getByText('does not answer').waitFor()
    await cluster.start()
    await page.getByRole('alert').waitFor({ state: 'detached' })
    await seen('3 nodes and 2 groups are well')
    await view('Keys')
    await page.getByLabel('Begins with').fill('shared')
    await page.getByRole('button', { name: 'List' }).click()
    await page.getByRole('option', { name: /^shared/ }).click()
    await expect.poll(() => page.getByLabel('Value, as text').inputValue()).toBe('theirs')
  })

  it('and nothing was complained of', () => {
    expect(page.complaints).toEqual([])
  })
})
