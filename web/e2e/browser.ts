// Chromium of the system, headless; and what every page must hold whatever is shown on it.

import { mkdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core'
import { expect } from 'vitest'

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const OUTPUT = join(import.meta.dirname, 'output')
export const PATIENCE_MS = 45_000 // for what takes a second on an idle machine

export async function launched(): Promise<Browser> {
  mkdirSync(OUTPUT, { recursive: true })
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage',
    ],
  })
}

export type Watched = Page & { complaints: string[] }

/** A page of which every complaint is kept: of the page's policy, too. */
export async function opened(browser: Browser, url: string, options: BrowserContextOptions = {}): Promise<Watched> {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options })
  const page = Object.assign(await context.newPage(), { complaints: [] as string[] })
  page.setDefaultTimeout(PATIENCE_MS)
  page.on('pageerror', (error) => page.complaints.push(error.message))
  page.on('console', (message) => {
    // A node that is killed on purpose is complained of by the browser itself.
    if (message.type() === 'error' && !/net::ERR|the server responded with a status/.test(message.text())) {
      page.complaints.push(message.text())
    }
  })
  await page.goto(url)
  return page
}

export async function shot(page: Page, name: string): Promise<void> {
  await page.screenshot({ path: join(OUTPUT, `${name}.png`), fullPage: true })
}

type Violation = { id: string; nodes: { html: string; failureSummary: string }[] }

/** No violation that axe knows of, and nothing wider than the screen. */
export async function sound(page: Page): Promise<void> {
  // The page's policy holds for the tool too: it is evaluated, not added to the page.
  await page.evaluate(AXE)
  const found = await page.evaluate(async () => {
    const axe = (window as unknown as { axe: { run(): Promise<{ violations: Violation[] }> } }).axe
    return (await axe.run()).violations
  })
  const said = found.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join('\n')}`)
  expect(said).toEqual([])
  expect(await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth)).toBeLessThanOrEqual(0)
}
