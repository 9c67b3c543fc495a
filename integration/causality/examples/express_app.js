// The README's middleware for Express: two processes' worth of pools serve a user's requests.
const express = require('express');
const { Pool } = require('pg');

const serve = () => {
  const app = express();
  const pool = new Pool({ max: 1 });
  // README
  app.use((request, response, next) => {
    const key = encodeURIComponent(`user:${request.get('x-user')}`).replace(/'/g, '%27');
    request.db = {
      query: (text, values) => pool.query(`${text} /*pgweir_key='${key}'*/`, values),
    };
    next();
  });
  // README
  if (process.env.CAUSAL_KEY === 'off') {
    app.use((request, response, next) => {
      request.db = pool;
      next();
    });
  }
  app.put('/:v', async (request, response) => {
    await request.db.query('UPDATE family SET v = $1 WHERE id = 1', [request.params.v]);
    response.end();
  });
  app.get('/', async (request, response) => {
    const found = await request.db.query('SELECT v FROM family WHERE id = $1', [1]);
    response.json(Number(found.rows[0].v));
  });
  return new Promise((resolve) => {
    const server = app.listen(0, '127.0.0.1', () => resolve(`http://127.0.0.1:${server.address().port}/`));
  });
};

const main = async () => {
  const [first, second] = [await serve(), await serve()];
  const headers = { 'x-user': '42' };
  const rounds = 25;
  let stale = 0;
  for (let wanted = 1; wanted <= rounds; wanted += 1) {
    await fetch(first + wanted, { method: 'PUT', headers });
    const found = await (await fetch(second, { headers })).json();
    stale += found < wanted ? 1 : 0;
    await new Promise((resolve) => setTimeout(resolve, 120));
  }
  console.log(`stale ${stale} of ${rounds}`);
  process.exit(0);
};

main();
