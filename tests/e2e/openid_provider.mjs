// A complete OpenID provider that is not ours (the package oidc-provider), on a port of loopback.
// node openid_provider.mjs <client> <client> …: each client as JSON. Prints its issuer when it listens.
// Whoever logs in as a@b.c owns that address; as unverified:a@b.c the provider does not say so; as nobody there is none.

import { createServer } from 'node:http'
import Provider from 'oidc-provider'

const server = createServer()
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`
  const provider = new Provider(issuer, {
    clients: process.argv.slice(2).map((text) => JSON.parse(text)),
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name', 'picture'] },
    pkce: { required: () => true },
    findAccount: (_context, id) => ({
      accountId: id,
      claims: () => {
        const email = id.replace('unverified:', '')
        const known = email.includes('@') ? { email, email_verified: email === id } : {}
        return { sub: id, name: `Name of ${id}`, picture: 'https://pictures.example/1.png', ...known }
      },
    }),
  })
  server.on('request', provider.callback())
  console.log(issuer)
})
