// bknd over Postgres with the posts of the bench; started by bench/rivals.py from the folder of its packages.
import { em, entity, pg, text } from "bknd";
import { serve } from "bknd/adapter/node";
import { Pool } from "pg";

const { BENCH_PG, BENCH_PORT, BENCH_SIZES, BENCH_POOL } = process.env;
const tables = {};
for (const rows of BENCH_SIZES.split(",")) {
  tables[`posts_${rows}`] = entity(`posts_${rows}`, {
    user_id: text(),
    title: text(),
    body: text(),
    status: text(),
    created_at: text(),
  });
  tables[`comments_${rows}`] = entity(`comments_${rows}`, { user_id: text(), body: text() });
}
const schema = em(tables, ({ relation }, all) => {
  for (const rows of BENCH_SIZES.split(",")) relation(all[`comments_${rows}`]).manyToOne(all[`posts_${rows}`]);
});

serve({
  connection: pg({ pool: new Pool({ ...JSON.parse(BENCH_PG), max: Number(BENCH_POOL) }) }),
  config: { data: schema.toJSON() },
  options: { mode: "code" },
  adminOptions: false,
  hostname: "127.0.0.1",
  port: Number(BENCH_PORT),
  onBuilt: async (app) => {
    await app.em.schema().sync({ force: true });
  },
});
