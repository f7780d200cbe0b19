import { describe, expect, it } from 'vitest'
import { consequences, incomplete } from '../src/model/consequences'
import { bytes, duration, listed, milliseconds, rate, ranges } from '../src/model/format'
import { moved } from '../src/model/grid'
import { cellOf, groupBadge, groupColour, nextGid, nodeBadge, otherPages, shardsByGroup, standing, successors } from '../src/model/view'
import { viewOf } from '../src/ui/views'
import { cluster, group, held, node, serving, silent } from './documents'

describe('nodes and groups', () => {
  it.each([
    ['running', 'good', node('n1')],
    ['silent', 'bad', silent('n1')],
    ['starting', 'warn', node('n1', { state: 'starting' })],
    ['suspect', 'warn', node('n1', { health: 'suspect' })],
    ['disk full', 'bad', node('n1', { roomy: false })],
    ['slow disk', 'warn', node('n1', { quick: false })],
    ['running', 'good', node('n1', { health: null, roomy: null, quick: null })],
  ])('a node is %s', (text, tone, given) => {
    expect(nodeBadge(given)).toMatchObject({ tone, text })
  })

  it('says when a silent node was seen last', () => {
    expect(nodeBadge(silent('n1', 75)).more).toBe('last seen 1 min 15 s ago')
    expect(nodeBadge(silent('n1', null)).more).toBe('not seen yet')
  })

  it('says how many losses a group stands', () => {
    const nodes = ['n1', 'n2', 'n3', 'n4'].map((name) => node(name))
    expect(groupBadge(group(1, 'n1'), nodes)).toEqual({ tone: 'good', text: 'whole' })
    expect(groupBadge(group(1, null), nodes)).toMatchObject({ tone: 'bad', text: 'no leader' })
    const without = [node('n1'), node('n2'), silent('n3')]
    expect(groupBadge(group(1, 'n1'), without)).toEqual({
      tone: 'warn', text: '2 of 3', more: 'without n3; it stands no more losses',
    })
    const five = group(1, 'n1', { voters: ['n1', 'n2', 'n3', 'n4', 'n5'] })
    expect(groupBadge(five, [...nodes, silent('n5')]).more).toBe('without n5; it stands 1 more loss')
    expect(groupBadge(group(1, 'n1', { learners: ['n4'] }), nodes).text).toBe('changing')
  })

  it('shows what a node is to a group', () => {
    const one = group(1, 'n1', { learners: ['n4'] })
    one.replicas.push({ node: 'n4', role: 'follower', term: 3, applied: 1, lag: 89, log_bytes: 0 })
    expect(cellOf(one, node('n1'))).toMatchObject({ role: 'leader' })
    expect(cellOf(one, node('n4'))).toMatchObject({ role: 'learner', tone: 'warn' })
    expect(cellOf(one, node('n9'))).toEqual({ kind: 'none' })
    one.replicas.splice(1, 1)
    expect(cellOf(one, silent('n2'))).toEqual({ kind: 'silent' })
  })

  it('gives ten colours in turn', () => {
    expect([null, 0, 1, 10, 11].map(groupColour)).toEqual(['g-none', 'g-controller', 'g0', 'g9', 'g0'])
  })

  it('counts the shards of each group, of empty ones and of nobody', () => {
    const now = cluster({
      config: { number: 2, shards: 3, groups: [1, 2, 3] },
      shards: [serving(0, 1), serving(1, 2), { shard: 2, owner: null, phase: 'unassigned', holders: [] }],
    })
    expect([...shardsByGroup(now)]).toEqual([[1, [0]], [2, [1]], [3, []], [null, [2]]])
  })
})

describe('the cluster in a sentence', () => {
  it.each([
    ['3 nodes and 2 groups are well', 'good', cluster()],
    ['n2 does not answer', 'warn', cluster({ nodes: [node('n1'), silent('n2'), node('n3')] })],
    [
      'Controller and Group 2 have no leader; n2 and n3 do not answer',
      'bad',
      cluster({ nodes: [node('n1'), silent('n2'), silent('n3')], groups: [group(0, null), group(1, 'n1'), group(2, null)] }),
    ],
    ['n1: slow disk', 'warn', cluster({ nodes: [node('n1', { quick: false }), node('n2')] })],
    [
      '3 nodes and 2 groups are well; 1 shard on the move',
      'idle',
      cluster({ shards: [{ shard: 0, owner: 2, phase: 'moving', holders: [held(1, 'moving')] }] }),
    ],
  ])('%s', (text, tone, now) => {
    expect(standing(now)).toEqual({ tone, text })
  })
})

describe('what an action will do', () => {
  it('says where a shard goes', () => {
    const told = consequences({ kind: 'move', shard: 0, gid: 2, expect: 2 }, cluster())
    expect(told.title).toBe('Move shard 0 to group 2')
    expect(told.will[0]).toBe('Group 1 serves it now (leader: n1); group 2 will (leader: n2).')
    expect(told.will[2]).toMatch('Configuration 2 becomes 3.')
    expect(told.warnings).toEqual([])
  })

  it('warns of what would wait', () => {
    const now = cluster({ groups: [group(1, 'n1'), group(2, null)] })
    expect(consequences({ kind: 'move', shard: 0, gid: 2, expect: 2 }, now).warnings).toEqual([
      'Group 2 has no leader now: its shards wait until it has one.',
    ])
    expect(consequences({ kind: 'move', shard: 0, gid: 1, expect: 2 }, cluster()).warnings).toEqual(['Shard 0 is group 1’s already.'])
  })

  it('says who hands over, and how far the next one is behind', () => {
    const now = cluster()
    now.groups[1]!.replicas[1]!.lag = 5
    const told = consequences({ kind: 'transfer', gid: 1, node: 'n2' }, now)
    expect(told.will[0]).toBe('n1 leads group 1 now; it hands over to n2.')
    expect(told.warnings).toEqual(['n2 is 5 entries behind: the hand-over waits until it has them.'])
  })

  it('says who gets the shards of a group that leaves, and that the last one may not', () => {
    const told = consequences({ kind: 'leave', gid: 1, expect: 2 }, cluster())
    expect(told).toMatchObject({ danger: true })
    expect(told.will[0]).toBe('Its 2 shards go to group 2, about 2.')
    const last = cluster({ config: { number: 2, shards: 4, groups: [1] } })
    expect(consequences({ kind: 'leave', gid: 1, expect: 2 }, last).warnings[0]).toMatch('the last group')
  })

  it('says how a group is born, and what it stands', () => {
    const told = consequences({ kind: 'join', gid: 3, nodes: ['n1', 'n2'], expect: 2 }, cluster())
    expect(told.will.slice(0, 2)).toEqual([
      'Group 3 is born on n1; n2 follows as a voter.',
      'About 1 of 4 shards move to it, the fewest that make all groups even.',
    ])
    expect(told.warnings).toEqual(['2 voters stand 0 losses, as 1 would.'])
  })

  it('says what is still to choose', () => {
    expect(incomplete({ kind: 'join', gid: 3, nodes: [], expect: 2 }, cluster())).toMatch('Choose the nodes')
    expect(incomplete({ kind: 'join', gid: 2, nodes: ['n1'], expect: 2 }, cluster())).toMatch('takes part already')
    expect(incomplete({ kind: 'transfer', gid: 1, node: '' }, cluster())).toMatch('No other node')
    expect(incomplete({ kind: 'leave', gid: 1, expect: 2 }, cluster())).toBeNull()
  })

  it('offers only nodes that can lead, and a new id', () => {
    const now = cluster({ nodes: [node('n1'), silent('n2'), node('n3'), node('n4')] })
    expect(successors(group(1, 'n1'), now)).toEqual(['n3'])
    expect(nextGid(cluster({ groups: [group(7, 'n1')] }))).toBe(8)
  })
})

describe('the keyboard in a grid', () => {
  // 0 1 2 3
  // 4 5 6 7
  // 8 9
  it.each([
    ['ArrowRight', 3, 4],
    ['ArrowRight', 9, 9],
    ['ArrowLeft', 4, 3],
    ['ArrowLeft', 0, 0],
    ['ArrowDown', 1, 5],
    ['ArrowDown', 6, 6],
    ['ArrowUp', 9, 5],
    ['ArrowUp', 2, 2],
    ['Home', 7, 0],
    ['End', 0, 9],
    ['a', 5, null],
  ])('%s at %d', (key, at, next) => {
    expect(moved(key, at, 10, 4)).toBe(next)
  })
})

describe('figures and addresses', () => {
  it('are short', () => {
    expect([rate(null), rate(0), rate(2.5), rate(3), rate(1234.5)]).toEqual(['–', '0', '2.5', '3', '1,235'])
    expect([milliseconds(null), milliseconds(0.05), milliseconds(7.5), milliseconds(2500)]).toEqual(['–', '0.05 ms', '7.5 ms', '2.5 s'])
    expect([bytes(17), bytes(1536), bytes(20 * 1024 * 1024)]).toEqual(['17 B', '1.5 KiB', '20 MiB'])
    expect([duration(0.4), duration(59), duration(3700), duration(200_000), duration(null)]).toEqual(['0.4 s', '59 s', '1 h 1 min', '2 d 7 h', '–'])
    expect([ranges([]), ranges([0, 1, 2, 5, 7, 8])]).toEqual(['', '0–2, 5, 7–8'])
    expect([listed([]), listed(['a']), listed(['a', 'b', 'c'])]).toEqual(['', 'a', 'a, b and c'])
  })

  it('name the other pages, and the view', () => {
    const known = new Map([['n1', 'h:1'], ['n2', 'h:2']])
    expect(otherPages(known, 'n1', 'https:')).toEqual([['n2', 'https://h:2/']])
    expect(['', '#/', '#/keys', '#/keys?x', '#/nothing', '#main'].map(viewOf)).toEqual(['overview', 'overview', 'keys', 'keys', 'overview', 'overview'])
  })
})
