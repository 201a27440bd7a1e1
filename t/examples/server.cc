// server.cc - channel.h from C++: a class for a conversation, whose virtual
// functions are the hooks.  SMTP with one client on standard input and output.
//
//	c++ server.cc $(pkg-config --cflags --libs smtpd-channel)
#include <unistd.h>

#include <iostream>
#include <string>
#include <vector>

#include "channel.h"

// No exception may pass through the channel, which is C: a hook that throws
// refuses what it was asked for.
class Conversation {
public:
	explicit Conversation(const std::string &name) : name(name)
	{
		set.fqdn = this->name.c_str();
		set.max_errors = 20;
		hooks.rcpt = [](void *ctx, span path, span, reply *r) {
			self(ctx).guarded(*r, [&](Conversation &c) {
				c.recipient({ path.p, path.len }, *r); });
		};
		hooks.body = [](void *ctx, span text) {
			reply r = {};
			self(ctx).guarded(r, [&](Conversation &c) {
				c.text.append(text.p, text.len); });
			self(ctx).broken |= r.code != 0;
		};
		hooks.end = [](void *ctx, reply r[], size_t) {
			self(ctx).guarded(r[0], [&](Conversation &c) {
				if (c.broken)
					throw std::bad_alloc();
				c.message(r[0]); });
		};
		hooks.forget = [](void *ctx) {
			self(ctx).text.clear();
			self(ctx).broken = false;
		};
		channel_init(&channel, &set, &hooks, this);
	}
	virtual ~Conversation() { channel_free(&channel); }
	Conversation(const Conversation &) = delete;	// it must not be moved
	Conversation &operator=(const Conversation &) = delete;

	void greet() { channel_greet(&channel); }
	bool over() const { return channel.want == WANT_CLOSE; }

	// Takes octets, returns the replies to them.
	std::string feed(const char *p, size_t len)
	{
		std::string out = replies();

		while (len > 0 && !over()) {
			size_t used = channel_feed(&channel, p, len);
			p += used;
			len -= used;
			out += replies();
		}
		return out;
	}

protected:
	virtual void recipient(const std::string &address, reply &r) = 0;
	virtual void message(reply &r) = 0;

	channel_settings set = {};
	channel_hooks hooks = {};
	struct channel channel;
	std::string text;	// the message so far

private:
	static Conversation &self(void *ctx)
	{
		return *static_cast<Conversation *>(ctx);
	}
	template <typename F> void guarded(reply &r, F f)
	{
		try {
			f(*this);
		} catch (const std::exception &) {
			reply_set(&r, 451, "4.3.0", "Internal error");
		}
	}
	std::string replies()
	{
		size_t len;
		const char *p = channel_output(&channel, &len);
		std::string out(p, len);

		channel_sent(&channel, len);
		return out;
	}

	std::string name;
	bool broken = false;
};

class Counter : public Conversation {
public:
	Counter() : Conversation("cxx.example.org") { }

protected:
	void recipient(const std::string &address, reply &r) override
	{
		if (address.compare(0, 7, "nobody@") == 0)
			reply_set(&r, 550, "5.1.1", "No such mailbox");
	}
	void message(reply &r) override
	{
		auto answer = std::to_string(text.size()) + " octets to " +
		    std::to_string(channel.nrcpttos);

		reply_set(&r, 250, "2.0.0", answer.c_str());
	}
};

int
main()
{
	Counter c;
	char in[4096];
	ssize_t have;

	c.greet();
	std::cout << c.feed(in, 0) << std::flush;
	while (!c.over() && (have = read(STDIN_FILENO, in, sizeof in)) > 0)
		std::cout << c.feed(in, static_cast<size_t>(have))
		          << std::flush;
	return !std::cout;
}
