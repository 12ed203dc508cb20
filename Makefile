PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
LIBRARY = target/release/libsnapshim.so

.PHONY: all setup test check unit models miri planted planted-soak planted-oracle integration soak bench demo install uninstall clean

all:
	$(CARGO) build --release --workspace

# What the tests use beyond Rust, gcc, make and python3. Without root or apt-get they skip, aloud, what is missing.
setup:
	@tests/setup.sh

test: all setup check unit models integration

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTFLAGS="--cfg loom" $(CARGO) clippy --no-default-features --lib --target-dir target/loom -- -D warnings

unit:
	$(CARGO) test --release --workspace --lib --bins

models:
	RUSTFLAGS="--cfg loom" $(CARGO) test --release --no-default-features --test models --target-dir target/loom

# The core's unit tests, interpreted; part of `integration`. Says so where it cannot run.
miri:
	tests/miri.sh

# Every step of the protocol left out once: a model has to fail.
planted:
	tests/planted.sh

# Some steps and hooks of the library left out once: the soak has to fail.
planted-soak:
	tests/planted_soak.sh

# The same for the oracle of random histories.
planted-oracle:
	tests/planted_oracle.sh

integration: all
	tests/integration.sh

soak: all planted planted-soak planted-oracle
	SNAPSHIM_CUT_EVERY=1 $(CARGO) test --test cuts -- --nocapture
	SNAPSHIM_STOP_EVERY=1 $(CARGO) test --test stops -- --nocapture
	$(CARGO) test --test storm --test damage --test exhaustion --test soak --test oracle \
	    --test programs_unharmed -- --ignored --nocapture

bench: all
	$(CARGO) run --release --quiet --example bench

demo: all
	examples/demo.sh

install: all
	install -Dm755 $(LIBRARY) $(DESTDIR)$(PREFIX)/lib/libsnapshim.so
	install -Dm644 shim/include/snapshim.h $(DESTDIR)$(PREFIX)/include/snapshim.h
	install -Dm755 target/release/snapshim $(DESTDIR)$(PREFIX)/bin/snapshim

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/lib/libsnapshim.so $(DESTDIR)$(PREFIX)/include/snapshim.h \
	    $(DESTDIR)$(PREFIX)/bin/snapshim

clean:
	$(CARGO) clean
