/* signal_null FILE [shimmed]: implicit null checks, overflown stacks and safepoints are SIGSEGVs of the virtual machine's own. Halfway a
 * private mapping of the file is relocated, from where on the shim handles that signal. */
import java.io.RandomAccessFile;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;

class signal_null {
    int field = 1;
    static volatile boolean stop;
    static volatile long sink;

    static int read(signal_null it) {
        return it.field;
    }

    static int nulls(int rounds) {
        int caught = 0;
        signal_null real = new signal_null();
        for (int i = 0; i < rounds; i++) {
            try {
                sink += read(i % 100 == 0 ? null : real);
            } catch (NullPointerException expected) {
                caught++;
            }
        }
        return caught;
    }

    static int deep(int depth) {
        return deep(depth + 1) + 1;
    }

    static int overflows(int rounds) {
        int caught = 0;
        for (int i = 0; i < rounds; i++) {
            try {
                sink += deep(0);
            } catch (StackOverflowError expected) {
                caught++;
            }
        }
        return caught;
    }

    public static void main(String[] arguments) throws Exception {
        Thread[] threads = new Thread[2];
        for (int i = 0; i < threads.length; i++) {
            threads[i] = new Thread(() -> {
                while (!stop)
                    nulls(1000);
            });
            threads[i].start();
        }
        System.out.println(nulls(200_000) + " " + overflows(20));
        try (RandomAccessFile file = new RandomAccessFile(arguments[0], "rw")) {
            file.setLength(1 << 20);
            file.write("the old".getBytes());
            MappedByteBuffer map = file.getChannel().map(FileChannel.MapMode.PRIVATE, 0, 1 << 20);
            map.put(100, (byte) 7);
            file.setLength(0);
            if (arguments.length > 1)
                System.err.println("kept " + (char) map.get(4) + map.get(100));
        }
        for (int i = 0; i < 4; i++) {
            System.out.println(nulls(100_000) + " " + overflows(5));
            System.gc();
        }
        stop = true;
        for (Thread thread : threads)
            thread.join();
    }
}
