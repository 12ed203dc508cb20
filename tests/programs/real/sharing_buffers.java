// sharing_buffers FILE: stores into FILE through mapped buffers, from several threads, with the collector running and null checks failing.
import java.io.RandomAccessFile;
import java.nio.*;
import java.nio.channels.FileChannel;

class sharing_buffers {
    static Object nothing;

    public static void main(String[] arguments) throws Exception {
        try (RandomAccessFile file = new RandomAccessFile(arguments[0], "rw"); FileChannel channel = file.getChannel()) {
            MappedByteBuffer all = channel.map(FileChannel.MapMode.READ_WRITE, 0, channel.size());
            Thread[] threads = new Thread[3];
            for (int part = 0; part < threads.length; part++) {
                int first = part * 97;
                threads[part] = new Thread(() -> {
                    int caught = 0;
                    for (int at = first; at < all.capacity() - 8; at += 3 * 97) {
                        all.putInt(at, at * 31);
                        if (at % 1000 == 0)
                            System.gc();
                        try {
                            nothing.hashCode();
                        } catch (NullPointerException expected) {
                            caught++;
                        }
                    }
                    if (caught == 0)
                        throw new IllegalStateException();
                });
                threads[part].start();
            }
            for (Thread thread : threads)
                thread.join();
            all.force();
            MappedByteBuffer part = channel.map(FileChannel.MapMode.READ_WRITE, 5000, 9000);
            part.put(new byte[9000]);
        }
        System.out.println("stored");
    }
}
