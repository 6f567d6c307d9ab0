// What programs do with postgrest-js every day; prints what each call gave, by name, as JSON.
// Arguments: the node_modules folder, the app's address, a signed-in user's token, another's.
import { createRequire } from 'node:module'

const [folder, address, first, second] = process.argv.slice(2)
const { PostgrestClient } = createRequire(folder + '/')('@supabase/postgrest-js')
const as = (token) => new PostgrestClient(address, { headers: token ? { Authorization: `Bearer ${token}` } : {} })
const ann = as(first), ben = as(second), anyone = as('')
const told = {}

async function call(name, query) {
  const { data, error, count, status } = await query
  told[name] = { data, error, count, status }
}

async function thrown(name, query) {
  try {
    await query.throwOnError()
  } catch (error) {
    told[name] = { name: error.name, ...error, message: error.message }
  }
}

const posts = () => ann.from('posts')
await call('insert', posts().insert({ id: 1, title: 'One', stars: 5, published: true, tags: ['a', 'b c'], doc: { k: 1 } }))
await call('insert select', posts().insert({ id: 2, title: 'Two, (too)' }).select('id, title, published'))
await call('insert single', posts().insert({ id: 3, title: 'Three', stars: 1 }).select('id').single())
await call('insert bulk', posts().insert([{ id: 4, title: 'fat cats', stars: 2 }, { id: 5, title: 'Five' }], { count: 'exact' }))
await call('insert defaults', posts().insert([{ id: 6, title: 'Six' }, { id: 7 }], { defaultToNull: false }).select('id, title'))
await call('insert twice', posts().insert({ id: 1, title: 'again' }))
await call('insert wrong column', posts().insert({ id: 8, titel: 'x' }))
await call('comments', ann.from('comments').insert([
  { id: 1, post_id: 1, body: 'first' }, { id: 2, post_id: 1, body: 'second' }, { id: 3, post_id: 4, body: 'third' },
]))

await call('select', posts().select().eq('id', 1).single())
await call('columns', posts().select('id, name:title, stars::text, doc->>k').in('id', [1, 2]).order('id'))
await call('embedding', posts().select('title, comments(body)').order('id').order('id', { referencedTable: 'comments', ascending: false }).limit(2))
await call('inner', posts().select('id, comments!inner(id)').eq('comments.body', 'third'))
await call('to one', ann.from('comments').select('id, posts(title)').order('posts(title)', { ascending: false }).order('id'))
await call('spread', ann.from('comments').select('id, ...posts(title)').eq('id', 3))
await call('aggregate', ann.from('posts').select('comments(count)').eq('id', 1))
await call('or', posts().select('id').or('stars.gt.4,and(title.ilike.f*,stars.is.null)').order('id'))
await call('filters', posts().select('id').gte('stars', 1).lt('stars', 5).neq('id', 9).not('title', 'is', null).order('id'))
await call('like', posts().select('id').like('title', '%w%').ilike('title', 'TWO%'))
await call('like any', posts().select('id').likeAnyOf('title', ['One', 'T%']).order('id'))
await call('awkward value', posts().select('id').eq('title', 'Two, (too)'))
await call('awkward list', posts().select('id').in('title', ['Two, (too)', 'Five']).order('id'))
await call('contains', posts().select('id').contains('tags', ['b c']))
await call('json', posts().select('id').contains('doc', { k: 1 }))
await call('overlaps', posts().select('id').overlaps('tags', ['a', 'z']))
await call('match', posts().select('id').match({ id: 1, title: 'One' }))
await call('text search', posts().select('id').textSearch('title', `'fat' & 'cat'`, { config: 'english' }))
await call('web search', posts().select('id').textSearch('title', 'cats or five', { type: 'websearch' }).order('id'))
await call('order', posts().select('id').order('stars', { ascending: false, nullsFirst: false }).order('id').limit(3))
await call('range', posts().select('id', { count: 'exact' }).order('id').range(2, 3))
await call('past the end', posts().select('id', { count: 'exact' }).range(100, 110))
await call('head', posts().select('*', { count: 'exact', head: true }))
await call('single none', posts().select().eq('id', 99).single())
await call('single many', posts().select().single())
await call('maybe none', posts().select('id').eq('id', 99).maybeSingle())
await call('maybe one', posts().select('id').eq('id', 1).maybeSingle())
await call('maybe many', posts().select('id').maybeSingle())
await call('csv', posts().select('id, title').lte('id', 2).order('id').csv())
await call('strip nulls', posts().select('id, stars').eq('id', 5).stripNulls())

await call('upsert', posts().upsert([{ id: 3, title: 'Three!' }, { id: 8, title: 'Eight' }], { count: 'exact' }).select('id, title, stars'))
await call('upsert on', ann.from('tags').upsert({ label: 'red', weight: 1 }, { onConflict: 'label' }).select('label, weight'))
await call('upsert on again', ann.from('tags').upsert({ label: 'red', weight: 2 }, { onConflict: 'label' }).select('label, weight'))
await call('upsert ignore', ann.from('tags').upsert({ label: 'red', weight: 3 }, { onConflict: 'label', ignoreDuplicates: true }).select('label, weight'))
await call('update', posts().update({ stars: 3 }).eq('id', 8))
await call('update select', posts().update({ stars: 4 }).eq('id', 8).select('id, stars'))
await call('update single', posts().update({ title: 'none' }).eq('id', 99).select().single())
await call('update none', posts().update({ stars: 4 }).eq('id', 99).select())
await call('update all', posts().update({ stars: 4 }))
await call('too many', posts().update({ stars: 0 }, { count: 'exact' }).gte('id', 5).maxAffected(1))
await call('untouched', posts().select('id').eq('stars', 0))
await call('delete', posts().delete({ count: 'exact' }).in('id', [7, 8]))
await call('delete select', posts().delete().eq('id', 6).select('id'))

await call('function', ann.rpc('titled', { words: 'Three' }))
await call('function filtered', ann.rpc('titled', { words: '' }).select('id, comments(id)').gt('stars', 1).order('id').limit(1))
await call('function counted', ann.rpc('titled', { words: 'f' }, { count: 'exact', head: true }))
await call('function by get', ann.rpc('add', { a: 40, b: 2 }, { get: true }))
await call('function single', ann.rpc('titled', { words: 'One' }).select('id').single())
await call('function none', ann.rpc('titled', { words: 'nothing' }).select('id').maybeSingle())
await call('function that writes', ann.rpc('rename', { number: 1, words: 'One' }))
await call('function for another', ben.rpc('titled', { words: '' }).select('id'))
await call('function not there', ann.rpc('nothing'))
await call('function not for anyone', anyone.rpc('rename', { number: 1, words: 'x' }))
await call('function without value', ann.rpc('add', { a: 1 }))
await call('function raises', ann.rpc('fail'))

await call('another sees', ben.from('posts').select('id, comments(id)').order('id'))
await call('anyone sees', anyone.from('posts').select('id'))
await call('another writes', ben.from('posts').update({ title: 'mine' }).eq('id', 1).select())
await call('anyone writes', anyone.from('posts').insert({ id: 50, title: 'x' }))
await call('no table', ann.from('nothing').select())
await call('no column', posts().select('nope'))
await call('wrong value', posts().select().eq('id', 'x'))
await call('no token', as('nonsense').from('posts').select())
await call('other schema', ann.schema('auth').from('users').select())
await call('public schema', ann.schema('public').from('posts').select('id').eq('id', 1))
await thrown('thrown', posts().insert({ id: 1, title: 'again' }))
console.log(JSON.stringify(told))
