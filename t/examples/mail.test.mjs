// mail.test.mjs - how to test a program that sends mail, with Node's runner:
// smtpd on a free port of this machine, which keeps what it is sent in a
// Maildir.
//
//     node --test t/examples/mail.test.mjs
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

// A server; rules are lines of the file of --rules.
async function catcher(...rules) {
	const folder = await mkdtemp(join(tmpdir(), "mail-"));
	const ends = [];
	await writeFile(join(folder, "rules"), rules.join("\n"));

	// Starts a process for each connection, as inetd does.  Node must not
	// read what smtpd is to read.
	const listener = createServer({ pauseOnConnect: true }, (client) => {
		const session = spawn(process.env.SMTPD ?? "smtpd",
			["--nosetuid", "--log-level", "err", "--rules",
			 join(folder, "rules"), `maildir:${folder}/mail`],
			{ stdio: [client, client, "inherit"] });
		ends.push(once(session, "exit"));
		client.destroy();	// the process has it
	});
	listener.listen(0, "127.0.0.1");
	await once(listener, "listening");
	return {
		port: listener.address().port,
		// It is on the disk before the client knows.
		async messages() {
			const box = join(folder, "mail", "new");
			const names = await readdir(box).catch(() => []);
			return Promise.all(names.map((name) =>
				readFile(join(box, name), "utf8")));
		},
		async close() {
			listener.close();
			await Promise.all(ends);
			await rm(folder, { recursive: true });
		},
	};
}

// Stands for the program that is tested, with nodemailer or what it has.
async function notify(port, to) {
	const client = connect(port, "127.0.0.1").setEncoding("latin1");
	let heard = "";
	client.end(["EHLO shop.example.org", "MAIL FROM:<shop@example.org>",
		`RCPT TO:<${to}>`, "DATA", "Subject: Your order", "",
		"It is on its way.", ".", "QUIT", ""].join("\r\n"));
	for await (const text of client)
		heard += text;
	return heard.split("\r\n");
}

test("the customer gets a message", async () => {
	const server = await catcher();
	try {
		await notify(server.port, "jo@example.net");
		const [mail, ...more] = await server.messages();
		assert.deepEqual(more, []);
		assert.match(mail, /^Delivered-To: jo@example\.net$/m);
		assert.match(mail,
		    /^Subject: Your order\n\nIt is on its way\.$/m);
	} finally {
		await server.close();
	}
});

test("a full mailbox is told", async () => {
	const server = await catcher("RCPT full@* 452 4.2.2 Mailbox full");
	try {
		const said = await notify(server.port, "full@example.net");
		assert.ok(said.includes("452 4.2.2 Mailbox full"),
		    said.join("\n"));
		assert.deepEqual(await server.messages(), []);
	} finally {
		await server.close();
	}
});
