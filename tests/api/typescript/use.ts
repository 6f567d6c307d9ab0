import { PostgrestClient } from "@supabase/postgrest-js"
import { PostgrestClient as PostgrestClientV1 } from "v1"
import { Constants, type Database, type Enums, type Tables, type TablesInsert, type TablesUpdate } from "./types"

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
function same<A, B>(_: Same<A, B>): void {}

export async function compiles(url: string): Promise<void> {
  const db = new PostgrestClient<Database>(url)
  const old = new PostgrestClientV1<Database>(url)

  const { data: rows } = await db.from("every").select("id, c_integer, c_numeric, c_mood, c_ints")
  same<NonNullable<typeof rows>[number]["id"], string>(true)
  same<NonNullable<typeof rows>[number]["c_mood"], Enums<"mood">>(true)
  const { data: whole } = await db.from("every").select()
  same<NonNullable<typeof whole>, Tables<"every">[]>(true)

  const { data: one } = await db.from("every").select("id, authors(name)").single()
  same<NonNullable<typeof one>["authors"], { name: string } | null>(true)
  const { data: many } = await db.from("authors").select("name, memberships(sel)")
  same<NonNullable<typeof many>[number]["memberships"], { sel: number }[]>(true)
  const { data: back } = await old.from("authors").select("name, memberships(sel)")
  same<NonNullable<typeof back>[number]["memberships"], { sel: number }[]>(true)
  const { data: single } = await db.from("authors").select("every(id)").single()
  same<NonNullable<typeof single>["every"], { id: string } | null>(true)

  await db.from("every").insert({ c_integer: 1, c_numeric: "1.50", c_moods: ["sad"], c_jsonb: { a: [1, null] } })
  await db.from("every").insert({ c_integer: 1, c_numeric: 1.5, c_bigint: 7 })
  await db.from("every").update({ c_mood: Constants.public.Enums.mood[0] }).eq("id", "5")
  await old.from("every").update({ c_text: null }).eq("c_mood", "happy")
  await db.from("select").insert({ class: 1, default: "x", "with space": "y", 'quo"te': "z", ünï: "u", "1st": 2 })
  await db.from("1digits").upsert({ id: 1, sel: 2 })
  const { data: seen } = await db.from("names").select("name, loud")
  same<NonNullable<typeof seen>[number], { name: string | null; loud: string | null }>(true)
  await db.from("names").update({ name: "x" }).eq("id", "y")
  const { data: through } = await db.from("every").select("names(loud)").single()
  same<NonNullable<typeof through>["names"], { loud: string | null } | null>(true)
  const counted: Tables<"counted"> = { boss: null, n: "5" }
  void counted
  const { data: twice } = await db.rpc("doubled", { a: 1 })
  same<typeof twice, string | null>(true)
  const { data: all } = await db.rpc("everyone")
  same<NonNullable<typeof all>, Tables<"authors">[]>(true)
  const { data: some } = await db.rpc("pairs_of", { n: "1.5" })
  same<NonNullable<typeof some>, { a: number; m: Enums<"mood"> }[]>(true)
  const change: TablesUpdate<"pairs"> = { note: null }
  const added: TablesInsert<"pairs"> = { a: 1, b: 2 }
  await db.from("pairs").update(change).match(added)
}

export async function errs(url: string): Promise<void> {
  const db = new PostgrestClient<Database>(url)
  // @ts-expect-error no such table
  db.from("evry")
  // @ts-expect-error a column that must be sent is missing
  await db.from("every").insert({ c_numeric: 1 })
  // @ts-expect-error no such column
  await db.from("pairs").insert({ a: 1, b: 2, c: 3 })
  // @ts-expect-error a generated column takes no value
  await db.from("every").update({ c_generated: 1 })
  // @ts-expect-error an identity that is always generated takes none either
  await db.from("every").update({ c_identity: 1 })
  // @ts-expect-error not a value of the enumeration
  await db.from("every").update({ c_mood: "angry" })
  // @ts-expect-error null in a column that must have a value
  await db.from("every").update({ c_integer: null })
  // @ts-expect-error a text where a number belongs
  await db.from("pairs").insert({ a: "1", b: 2 })
  // @ts-expect-error a column of a view that is computed takes no value
  await db.from("names").update({ loud: "x" })
  // @ts-expect-error a view of groups takes no rows
  await db.from("counted").insert({ n: "1" })
  // @ts-expect-error an argument that must be sent is missing
  await db.rpc("doubled", { "b c": "y" })
  const { data } = await db.from("every").select("c_bigint").single()
  // @ts-expect-error exact numbers come as texts
  const number: number = data!.c_bigint!
  const { data: rows } = await db.from("pairs").select("a, nothing")
  // @ts-expect-error a selected column does not exist
  void rows![0].a
  return void number
}
