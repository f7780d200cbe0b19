// A real cluster of `shardkv up`, on ports and in a directory of its own.

import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

const ROOT = resolve(import.meta.dirname, '../..')
const PYTHON = process.env.PYTHON ?? join(ROOT, '.venv/bin/python')
const READY_MS = 60_000
const STOP_MS = 20_000

export const NODES = ['n1', 'n2', 'n3'] as const
export type NodeName = (typeof NODES)[number]

export class Cluster {
  readonly data = mkdtempSync(join(tmpdir(), 'shardkv-web-'))
  private up: ChildProcess | null = null
  private readonly pids = new Map<string, number>()
  private readonly restarted: ChildProcess[] = []

  private constructor(private readonly base: number) {}

  static async founded(): Promise<Cluster> {
    const cluster = new Cluster(await freePorts())
    await cluster.start()
    return cluster
  }

  page(name: NodeName): string {
    return `http://127.0.0.1:${this.base + 10 * NODES.indexOf(name) + 2}/`
  }

  /** `shardkv up`: what a stop left is found again. */
  async start(): Promise<void> {
    const shape = ['--groups', '2', '--shards', '16', '--base-port', String(this.base)]
    const up = this.run('up', '--data', this.data, ...(existsSync(join(this.data, 'cluster.yaml')) ? [] : shape))
    this.up = up
    let said = ''
    await new Promise<void>((ready, failed) => {
      const late = setTimeout(() => failed(new Error(`not ready in time: ${said}`)), READY_MS)
      up.stdout!.on('data', (piece: Buffer) => {
        said += piece.toString()
        for (const [, name, pid] of said.matchAll(/^(n\d+) client \S+ pid (\d+)$/gm)) this.pids.set(name!, Number(pid))
        if (/^ready$/m.test(said)) {
          clearTimeout(late)
          ready()
        }
      })
      up.stderr!.on('data', (piece: Buffer) => (said += piece.toString()))
      up.on('exit', (status) => failed(new Error(`up ended with ${status}: ${said}`)))
    })
  }

  /** kill -9 */
  kill(name: NodeName): void {
    this.signal(name, 'SIGKILL')
  }

  signal(name: NodeName, signal: NodeJS.Signals): void {
    process.kill(this.pids.get(name)!, signal)
  }

  /** What `up` says would start it again. */
  restart(name: NodeName): void {
    const node = this.run('node', '--data', join(this.data, name))
    this.restarted.push(node)
    this.pids.set(name, node.pid!)
  }

  async stop(): Promise<void> {
    await Promise.all([this.up, ...this.restarted].map(ended))
    this.up = null
    this.restarted.length = 0
  }

  async removed(): Promise<void> {
    await this.stop()
    rmSync(this.data, { recursive: true, force: true })
  }

  private run(...words: string[]): ChildProcess {
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('SHARDKV_')))
    return spawn(PYTHON, ['-m', 'shardkv', ...words], { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'pipe'] })
  }
}

async function ended(child: ChildProcess | null): Promise<void> {
  if (child === null || child.exitCode !== null || child.signalCode !== null) return
  await new Promise<void>((done) => {
    const late = setTimeout(() => child.kill('SIGKILL'), STOP_MS)
    child.on('exit', () => {
      clearTimeout(late)
      done()
    })
    child.kill('SIGTERM')
  })
}

/** A base for three nodes of three ports each, below the ports that the system hands out. */
async function freePorts(): Promise<number> {
  for (let tries = 0; tries < 200; tries++) {
    const base = 10_000 + 100 * Math.floor(Math.random() * 210)
    const ports = NODES.flatMap((_, node) => [0, 1, 2].map((port) => base + 10 * node + port))
    if ((await Promise.all(ports.map(isFree))).every(Boolean)) return base
  }
  throw new Error('no free ports')
}

function isFree(port: number): Promise<boolean> {
  return new Promise((answer) => {
    const probe = createServer()
    probe.once('error', () => answer(false))
    probe.listen(port, '127.0.0.1', () => probe.close(() => answer(true)))
  })
}
